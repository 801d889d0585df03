"""Taking a model away: the loadable folder that `slm-ar finish` writes."""
