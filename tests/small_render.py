"""The configuration of a rendering that takes little."""

CONFIG = {
    "categories": ["digits"],
    "objects": {"count": [1, 2]},
    "camera": {"views": 2},
    "room": {"walls": 0},
    "image": {"size": 24},
    "scenes_per_shard": 3,
}
