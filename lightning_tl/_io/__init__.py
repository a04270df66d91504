"""The ground floor: atomic files, locks, URLs, stores and folders. Standard library, fsspec and filelock only."""
