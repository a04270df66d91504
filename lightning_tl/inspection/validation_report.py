"""The results of a validation, as text and as JSON."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from lightning_tl.inspection.faults import FAULTS, REMARKS, Fault
from lightning_tl.inspection.validate import Validation


def summary(validation: Validation, examples: int = 3) -> str:
    """Return a table of the faults, each with its first examples, and one of the classes' balance.

    Args:
        validation: Results of ``validate``.
        examples: Number of each fault that are listed with their file and key.
    """
    by_code: dict[str, list[Fault]] = defaultdict(list)
    for fault in validation.faults:
        by_code[fault.code].append(fault)
    lines = []
    for split, objects in validation.objects.items():
        counts = sorted(objects.values())
        spread = f"{counts[0]} to {counts[-1]} objects a category" if counts else "no categories"
        lines.append(
            f"{split}: {validation.images[split]} images, {sum(counts)} objects of {len(counts)} categories, {spread}"
        )
    for title, known in (("fault", FAULTS), ("remark", REMARKS)):
        codes = [code for code in known if code in by_code]
        width = max(map(len, codes), default=0)
        for code in codes:
            lines.append(f"{title:<6}  {code:<{width}}  {len(by_code[code]):>6}  {known[code]}")
            lines += [f"          {fault}" for fault in by_code[code][:examples]]
            if len(by_code[code]) > examples:
                lines.append(f"          … and {len(by_code[code]) - examples} more")
    serious = len(validation.serious())
    lines.append(f"{serious or 'no'} fault{'' if serious == 1 else 's'}, {len(validation.faults) - serious} remarks")
    return "\n".join(lines)


def as_json(validation: Validation) -> dict[str, Any]:
    """Return the results as plain values."""
    faults = [asdict(fault) | {"serious": fault.serious} for fault in validation.faults]
    return {"images": validation.images, "objects": validation.objects, "faults": faults}
