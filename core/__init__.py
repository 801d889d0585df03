"""The harness: data preparation, training, scoring, judging and the research loop.

Import it as ``slm_ar.core``; this folder is mapped there by pyproject.toml.
"""

if not __name__.startswith("slm_ar."):
    raise ImportError(
        "import slm_ar.core instead of core: install the package with `make install` "
        "or `pip install -e .` and put `slm_ar.` in front of the path"
    )
