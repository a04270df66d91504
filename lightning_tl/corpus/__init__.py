"""Text as token ids on disk: tokenizers, building a corpus, reading it. Needs numpy only; no torch, no Lightning."""
