"""The script of the page on SLURM, on two Ray nodes of this machine; srun and scontrol are stood in for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from study.small_study import records, write

PAGE = (Path(__file__).parents[2] / "docs/slurm.md").read_text()
STAND_INS = {
    "scontrol": "#!/bin/bash\n[ \"$*\" = 'show hostnames one,two' ] && printf 'one\\ntwo\\n'\n",
    # runs the command here, whatever the node; notes which node was asked for
    "srun": '#!/bin/bash\nwhile [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && echo "$1" >> "$NOTES"; shift; done\n'
    'if [ "$1" = hostname ]; then echo 127.0.0.1; else exec "$@"; fi\n',
}


@pytest.mark.slow
def test_the_script_runs_a_study_on_two_nodes(renders, tmp_path):
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    (tmp_path / "study.sbatch").write_text(script)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, content in STAND_INS.items():
        (tools / name).write_text(content)
        (tools / name).chmod(0o755)
    study = write(tmp_path, renders, workers=None)
    own = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{tools}:{own}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_CPUS_PER_TASK": "1",
        "STUDY": str(study),
        "OUT": str(tmp_path / "out"),
        "NOTES": str(tmp_path / "notes"),
    }
    command = ["bash", str(tmp_path / "study.sbatch")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / ".ray/auth_token").stat().st_size > 0
    assert len(records(tmp_path / "out")) == 8
    assert (tmp_path / "out/report.html").is_file()
    assert set((tmp_path / "notes").read_text().split()) == {"--nodelist=one", "--nodelist=two"}
