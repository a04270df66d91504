"""Small meshes, materials and panoramas in the layouts that users have on disk, made for the tests."""

from __future__ import annotations

import json

import numpy as np
import trimesh
from PIL import Image

QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)  # top line first


def picture(path, side=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(QUARTERS.repeat(side // 2, 0).repeat(side // 2, 1)).save(path)
    return path


def obj(path, size=(1.0, 1.0, 1.0), mtl="box.mtl", image="box.png", with_mtl=True, with_image=True):
    """Write a box that stands on z = 0 with a picture on each side, and the two files that it refers to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = [((i & 1) - 0.5, (i >> 1 & 1) - 0.5, i >> 2) for i in range(8)]
    lines = [f"mtllib {mtl}"] if mtl else []
    lines += [f"v {x * size[0]} {y * size[1]} {z * size[2]}" for x, y, z in corners]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1", "usemtl paint"]
    for ring in ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)):
        lines.append("f " + " ".join(f"{v + 1}/{t + 1}" for t, v in enumerate(ring)))
    path.write_text("\n".join(lines) + "\n")
    if mtl and with_mtl:
        (path.parent / mtl).write_text(
            f"newmtl paint\nKd 0.2 0.4 0.6\nmap_Kd {image}\n" if image else "newmtl paint\nKd 0.2 0.4 0.6\n"
        )
    if mtl and image and with_image:
        picture(path.parent / image)
    return path


def bare(path, mesh=None):
    """Write a mesh without any look, in the format of the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (mesh or trimesh.creation.icosphere(1)).export(path)
    return path


def glb(path, y_up_size=(1.0, 3.0, 1.0)):
    """Write a box with a picture, tall along y as glTF has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    box = trimesh.creation.box(y_up_size)
    uv = np.random.default_rng(0).uniform(0, 1, (len(box.vertices), 2))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(QUARTERS.repeat(8, 0).repeat(8, 1)))
    box.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    box.export(path)
    return path


def folder(root):
    """Make a folder of four categories in four formats; ``mug`` has two models."""
    obj(root / "cracker_box" / "textured.obj", (0.2, 0.1, 0.3))
    bare(root / "mug" / "a.stl")
    bare(root / "mug" / "b.ply", trimesh.creation.cylinder(0.5, 1.0, sections=12))
    glb(root / "chapel.glb")
    return root


def bop(root, ids=(1, 5), textured=True):
    """Make a BOP data set's models and camera: millimetres, a picture named in a comment or colours at vertices."""
    models = root / "models"
    models.mkdir(parents=True, exist_ok=True)
    info = {}
    for number in ids:
        box = trimesh.creation.box((60, 40, 100 + number))
        uv = (box.vertices[:, :2] > 0).astype(float)
        rows = "\n".join(f"{x} {y} {z} {u} {v}" for (x, y, z), (u, v) in zip(box.vertices, uv, strict=True))
        faces = "\n".join(f"3 {a} {b} {c}" for a, b, c in box.faces)
        name = f"obj_{number:06d}"
        comment = f"comment TextureFile {name}.png\n" if textured else ""
        (models / f"{name}.ply").write_text(
            f"ply\nformat ascii 1.0\n{comment}element vertex {len(box.vertices)}\nproperty float x\nproperty float y\n"
            f"property float z\nproperty float texture_u\nproperty float texture_v\nelement face {len(box.faces)}\n"
            f"property list uchar int vertex_indices\nend_header\n{rows}\n{faces}\n"
        )
        if textured:
            picture(models / f"{name}.png")
        low, size = box.bounds[0], box.extents
        info[str(number)] = {
            "diameter": float(np.linalg.norm(size)),
            **{f"min_{a}": float(low[i]) for i, a in enumerate("xyz")},
            **{f"size_{a}": float(size[i]) for i, a in enumerate("xyz")},
        }
    (models / "models_info.json").write_text(json.dumps(info))
    camera(root / "camera.json")
    return root


def camera(path, **changes):
    values = {
        "cx": 312.9869,
        "cy": 241.3109,
        "depth_scale": 0.1,
        "fx": 1066.778,
        "fy": 1067.487,
        "height": 480,
        "width": 640,
    }
    path.write_text(json.dumps({k: v for k, v in {**values, **changes}.items() if v is not None}))
    return path


def shapenet(root):
    """Make two synsets of ShapeNetCore v2's layout; y is up, pictures lie in a folder beside."""
    taxonomy = [
        {"synsetId": "02691156", "name": "airplane,aeroplane,plane", "children": [], "numInstances": 2},
        {"synsetId": "03797390", "name": "mug", "children": [], "numInstances": 1},
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "taxonomy.json").write_text(json.dumps(taxonomy))
    for synset, model in (("02691156", "10155655850468db78d106ce0a280f87"), ("02691156", "1a"), ("03797390", "1a1c0a")):
        place = root / synset / model
        obj(
            place / "models" / "model_normalized.obj", (0.3, 0.8, 0.4), "model_normalized.mtl", "../images/texture0.png"
        )
        picture(place / "images" / "texture0.png")
    return root


def materials(root, names=("Tiles074", "Wood051")):
    """Make PBR materials as ambientCG's archives unpack."""
    for name in names:
        stem = f"{name}_1K-JPG"
        for kind, colour in (
            ("Color", (200, 40, 40)),
            ("NormalGL", (128, 128, 255)),
            ("NormalDX", (128, 128, 255)),
            ("Roughness", (180,) * 3),
            ("Displacement", (90,) * 3),
            ("AmbientOcclusion", (255,) * 3),
        ):
            path = root / stem / f"{stem}_{kind}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), colour).save(path)
        Image.new("RGB", (16, 16)).save(root / stem / f"{stem}.png")  # the preview that comes with it
        (root / stem / f"{stem}.usdc").write_bytes(b"PXR-USDC")
    return root


def hdri(path, width=32, height=16, level=0.5):
    """Write a panorama in Radiance's or OpenEXR's format, bright on one side."""
    import os

    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), level, np.float32)
    pixels[:, : width // 2] *= 4
    assert cv2.imwrite(str(path), pixels)
    return path
