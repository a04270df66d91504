"""Which files a source holds, in the layouts of folders, tables, BOP and ShapeNet; what is said of other layouts."""

import mesh_files
import pytest

from data_gen.render_config import SourceConfig
from data_gen.sources.find_models import bop_is_textureless, chosen, find_models
from lightning_tl.errors import UserError


def _find(kind, path, **options):
    return find_models(SourceConfig(kind=kind, path=str(path), **options), "sources[0]")


def test_a_folder_a_category_or_a_file_a_category(tmp_path):
    models = _find("folder", mesh_files.folder(tmp_path))
    assert {name: [p.name for p in files] for name, files in models.items()} == {
        "cracker_box": ["textured.obj"],
        "mug": ["a.stl", "b.ply"],
        "chapel": ["chapel.glb"],
    }


def test_folders_within_folders_and_what_is_hidden(tmp_path):
    mesh_files.bare(tmp_path / "chair" / "a" / "deep" / "x.STL".lower())
    for hidden in (".cache/x.stl", "__MACOSX/chair/x.stl", "chair/._x.stl"):
        mesh_files.bare(tmp_path / hidden)
    assert {name: len(files) for name, files in _find("folder", tmp_path).items()} == {"chair": 1}


def test_a_table(tmp_path):
    mesh_files.folder(tmp_path)
    (tmp_path / "t.csv").write_text('\ufefffile, category\nmug/a.stl,cup\nmug/b.ply,cup\nchapel.glb,"tall, thin"\n')
    models = _find("folder", tmp_path, csv="t.csv")
    assert {name: [p.name for p in files] for name, files in models.items()} == {
        "cup": ["a.stl", "b.ply"],
        "tall, thin": ["chapel.glb"],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "'sources[0].csv': cannot read"),
        (b"", "no column 'file'; the first line should be file,category"),
        (b"file\nmug/a.stl\n", "no column 'category'"),
        (b"file,category\n", "has no line below its header"),
        (b"file,category\nmug/a.stl,\n", "line 2: 'category' is empty"),
        (b"file,category\n,cup\n", "line 2: 'file' is empty"),
        (b"file,category\nmug/a.stl\n", "line 2: 'category' is empty"),
        (b"file,category\nmug/none.stl,cup\n", "line 2: no such file: "),
        (b"file,category\nmug/a.stl,cup\nmug/a.stl,mug\n", "line 3: mug/a.stl stands in line 2 too"),
        (b"\xff\xfe\x00file", "is no table of comma-separated text in UTF-8"),
    ],
)
def test_broken_tables(tmp_path, content, message):
    mesh_files.folder(tmp_path)
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError) as caught:
        _find("folder", tmp_path, csv="t.csv")
    assert message in str(caught.value)
    assert "t.csv" in str(caught.value)


def test_a_bop_data_set(tmp_path):
    root = mesh_files.bop(tmp_path / "ycbv")
    assert list(_find("bop", root)) == ["ycbv_000001", "ycbv_000005"]
    assert list(_find("bop", root / "models")) == ["ycbv_000001", "ycbv_000005"]
    assert not bop_is_textureless(root)
    # T-LESS has two sets of models: those made by CAD are taken
    less = mesh_files.bop(tmp_path / "tless", (1, 2, 3))
    (less / "models").rename(less / "models_cad")
    mesh_files.bop(less / "other")
    (less / "other" / "models").rename(less / "models_reconst")
    models = _find("bop", less)
    assert list(models) == ["tless_000001", "tless_000002", "tless_000003"]
    assert all(p.parent.name == "models_cad" for files in models.values() for p in files)
    assert bop_is_textureless(less)
    assert bop_is_textureless(less / "models_cad")


def test_broken_bop_data_sets(tmp_path):
    root = mesh_files.bop(tmp_path / "lm")
    (root / "models" / "obj_000005.ply").unlink()
    with pytest.raises(UserError, match=r"models_info\.json: lists obj_000005, but .* has no such \.ply"):
        _find("bop", root)
    (root / "models" / "models_info.json").write_text("[")
    with pytest.raises(UserError, match=r"models_info\.json: is no JSON object by object id"):
        _find("bop", root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no obj_\*\.ply in .*: give a BOP data set's folder"):
        _find("bop", tmp_path / "empty")


def test_shapenet_v2_and_v1(tmp_path):
    root = mesh_files.shapenet(tmp_path / "v2")
    models = _find("shapenet", root)
    assert {name: len(files) for name, files in models.items()} == {"airplane": 2, "mug": 1}
    (root / "taxonomy.json").unlink()
    assert list(_find("shapenet", root)) == ["02691156", "03797390"]
    mesh_files.obj(tmp_path / "v1" / "02691156" / "abc" / "model.obj")
    assert list(_find("shapenet", tmp_path / "v1")) == ["02691156"]


def test_synsets_of_one_name_are_distinguished(tmp_path):
    root = mesh_files.shapenet(tmp_path)
    text = (root / "taxonomy.json").read_text().replace("mug", "airplane")
    (root / "taxonomy.json").write_text(text)
    assert list(_find("shapenet", root)) == ["airplane_02691156", "airplane_03797390"]


def test_broken_shapenets(tmp_path):
    with pytest.raises(UserError, match=r"no synsetId/modelId/models/model_normalized\.obj in"):
        _find("shapenet", tmp_path)
    root = mesh_files.shapenet(tmp_path / "a")
    (root / "taxonomy.json").write_text('[{"synset": 1}]')
    with pytest.raises(UserError, match=r"taxonomy\.json: is no list of synsets"):
        _find("shapenet", root)


@pytest.mark.parametrize("kind", ["folder", "bop", "shapenet"])
def test_folders_that_are_none(tmp_path, kind):
    with pytest.raises(UserError, match=r"'sources\[0\]\.path': .*none does not exist; relative paths are from"):
        _find(kind, tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        _find(kind, tmp_path / "file")


def test_a_folder_without_a_mesh_says_what_is_there(tmp_path):
    with pytest.raises(UserError, match=r"no mesh in .* there is nothing"):
        _find("folder", tmp_path)
    (tmp_path / "a.fbx").touch()
    (tmp_path / "b.fbx").touch()
    with pytest.raises(UserError, match=r"read are \.obj, .*; there is 2 \.fbx\)"):
        _find("folder", tmp_path)


def test_choosing_categories(tmp_path):
    models = _find("folder", mesh_files.folder(tmp_path))
    assert list(chosen(models, ["chapel", "mug"], "sources[0]")) == ["chapel", "mug"]
    assert chosen(models, [], "sources[0]") == models
    with pytest.raises(UserError, match=r"'sources\[0\]\.categories': no category 'mugg' .*did you mean 'mug'"):
        chosen(models, ["mugg"], "sources[0]")
