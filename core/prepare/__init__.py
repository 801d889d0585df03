"""From a source to tokens: dedup, honest splits, tokenizer, shards, floors."""
