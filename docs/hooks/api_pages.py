"""The Python reference: a page for each package, from its docstrings.

A page has the names of the package's ``__all__`` first, then those modules that the rest of the documentation, or a
class to derive from, needs. What is not listed here can change without notice.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

#: package → (what it is for, its modules that are part of the reference beside ``__all__``)
PACKAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lightning_tl.callbacks": ("Watch a training run of Lightning", ("measurement",)),
    "lightning_tl.integrations": ("The same with the Hugging Face Trainer", ("transformers",)),
    "lightning_tl.measure": (
        "Measure any model and loss, in any loop",
        (
            "recorder",
            "measures",
            "distance_measure",
            "modification_measure",
            "measurement_schedule",
            "modifications",
            "perturbation",
            "batchnorm",
            "params",
            "initialisation",
        ),
    ),
    "lightning_tl.losses": ("Losses to measure", ("training_step", "pretraining")),
    "lightning_tl.offline": (
        "Measure saved checkpoints",
        ("checkpoints", "measure_options", "series", "language_series"),
    ),
    "lightning_tl.laws": (
        "Fit scaling laws, decide",
        (
            "results_table",
            "group_fits",
            "advice",
            "compare",
            "identification",
            "pretraining",
            "questions",
            "candidates",
            "next_runs",
            "samples_needed",
            "law_figures",
            "curve_figures",
            "parameter_figures",
            "fine_tuning_figure",
        ),
    ),
    "lightning_tl.tasks": ("Tasks, and the bases of your own", ()),
    "lightning_tl.transfer": ("Ways of fine-tuning", ()),
    "lightning_tl.models": (
        "Backbones; weights in",
        ("causal_lm", "decoder", "faster_rcnn", "deeplab", "feature_pyramid", "pretrained"),
    ),
    "lightning_tl.sharing": ("Weights for other projects, the transfer card", ("export", "transfer_card")),
    "lightning_tl.data": (
        "Data modules, and the bases of your own",
        ("image_module", "batched_module", "image_dataset", "image_files", "transforms", "subsets", "preview"),
    ),
    "lightning_tl.corpus": ("Text corpora", ("manifest", "build", "sources", "tokenizers", "builtin")),
    "lightning_tl.inspection": (
        "Check, picture, export rendered data sets",
        ("validate", "faults", "export", "statistics_page", "features", "feature_statistics"),
    ),
    "lightning_tl.study": ("Studies: many runs as one", ("config", "until", "run_study", "records", "report_page")),
    "lightning_tl.study.overtraining": ("The analysis of pre-training budgets", ("quadratic",)),
    "lightning_tl.study.transfer_methods": ("The comparison of ways of fine-tuning", ("comparison", "samples")),
    "lightning_tl.labs": (
        "Laboratories with a known answer",
        (
            "lab",
            "outcome",
            "catalogue",
            "caulking",
            "incremental_features",
            "law_recovery",
            "linear_transfer",
            "ntk_transfer",
            "partial_transfer",
        ),
    ),
    "data_gen": (
        "Render: scenes as plain data, shards",
        ("render_config", "scene_sampler", "scene_spec", "farm", "manifest", "labels", "reproduce"),
    ),
}

#: Modules that belong to no package of their own.
SINGLE = ("lightning_tl.run", "lightning_tl.errors", "lightning_tl.measured_value", "lightning_tl.figure_style")

_INTRODUCTION = """# Python reference

From the docstrings: arguments with shapes and units, what is returned, errors, sources. A stranger who wants only
the callbacks, or only the laws, imports nothing of the rest. Names that are not listed here are internal.

| Package | What it is for |
|---|---|
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    pages = {"api/index.md": _index()}
    for package, (_, modules) in PACKAGES.items():
        pages[_page(package)] = _package(root, package, modules)
    pages["api/others.md"] = "# Further modules\n\n" + "\n".join(map(_module, SINGLE))
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def _page(package: str) -> str:
    return f"api/{package.removeprefix('lightning_tl.').replace('.', '_')}.md"


def _index() -> str:
    rows = [f"| [`{name}`]({_page(name)[4:]}) | {purpose} |" for name, (purpose, _) in PACKAGES.items()]
    singles = ", ".join(f"`{name.rpartition('.')[2]}`" for name in SINGLE)
    return _INTRODUCTION + "\n".join([*rows, f"| [further modules](others.md) | {singles} |"]) + "\n"


def _package(root: Path, package: str, modules: tuple[str, ...]) -> str:
    """Return a page: the package's docstring and public names, then its modules."""
    names = public_names(root / package.replace(".", "/") / "__init__.py")
    shown = "[" + ", ".join(names) + "]" if names else "false"
    head = (
        f"# {package}\n\n::: {package}\n    options:\n      members: {shown}\n      show_root_heading: false\n"
        "      show_root_toc_entry: false\n      heading_level: 2\n"
    )
    return "\n".join([head, *(_module(f"{package}.{name}") for name in modules)])


def _module(path: str) -> str:
    heading = f"## {path.rpartition('.')[2]} {{ #{path.replace('.', '-')}-module }}"
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n      heading_level: 3\n"
    return f"{heading}\n\n`{path}`\n\n::: {path}\n{options}"


def public_names(init: Path) -> list[str]:
    """Return the names in ``__all__`` of a package; none where it has no such list.

    Args:
        init: Its ``__init__.py``.
    """
    for statement in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    return []
