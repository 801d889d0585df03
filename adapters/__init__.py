"""Dataset adapters: one file or folder per domain, found through entry points, importing no other adapter."""
