import json

import pytest

from data_gen.manifest import Split
from data_gen.reproduce import main
from data_gen.scene_sampler import sample_scene


def test_the_specification_of_a_scene(tiny, tmp_path, capsys):
    config = tiny(seed=5)
    Split(tmp_path / "val", config, 6).write_manifest()
    assert main([str(tmp_path), "--split", "val", "--scene", "7", "--spec"]) == 0
    expected = sample_scene(config, 5, "val", 7).to_dict()
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("manifest", "scene", "message"),
    [
        (None, "1", "manifest.json cannot be read"),
        ("{", "1", "manifest.json cannot be read"),
        ("{}", "1", "manifest.json cannot be read ('config')"),
        ("whole", "-1", "--scene is -1, but must be 0 or more"),
    ],
)
def test_what_cannot_be_reproduced(tiny, tmp_path, capsys, manifest, scene, message):
    if manifest is not None:
        Split(tmp_path / "train", tiny(), 6).write_manifest()
    if manifest not in (None, "whole"):
        (tmp_path / "train" / "manifest.json").write_text(manifest)
    assert main([str(tmp_path), "--scene", scene]) == 1
    assert message in capsys.readouterr().err
