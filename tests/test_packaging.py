"""The wheel holds all that the commands need, not just what a checkout has beside it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_built_wheel_works_without_the_checkout(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("fute-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
        assert b"License-Expression: Apache-2.0" in archive.read(metadata)
    assert {path.name for path in (site / "fute" / "demo").iterdir()} >= {
        *("demo.yaml", "init.yaml", "corpus.jsonl", "reviews.csv", "headlines.csv"),
        *("mymodels.py", "blackboxes.py"),
    }
    assert (site / "fute" / "py.typed").is_file()

    def call(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": str(site)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert call("-c", "import fute; print(fute.__file__)").strip() == str(site / "fute" / "__init__.py")
    call("-m", "fute", "init", "made")
    assert (tmp_path / "made" / "fute.yaml").is_file()
    assert "word-counts" in call("-m", "fute", "plan", "--project", "made")


def test_the_readmes_python_example_is_at_most_twelve_lines_and_only_uses_what_is_public():
    import fute

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\n", 1)[1].split("```", 1)[0]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 12
    used = {word.split("(")[0].split(".")[0] for line in lines for word in line.split("fute.")[1:]}
    assert used <= set(fute.__all__), used - set(fute.__all__)
    compile(code, "README.md", "exec")
