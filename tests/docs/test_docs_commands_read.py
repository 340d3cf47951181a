"""How the commands of a page are read, and that what is said of them is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.page_commands import ALL, NOT_RUN, PREPARE, SMALLER, WITH_COMMANDS, commands


@pytest.mark.parametrize("pattern", [what for what, _ in NOT_RUN])
def test_what_is_not_run_is_still_documented(pattern: str) -> None:
    assert any(re.search(pattern, command.line) for command in ALL)


@pytest.mark.parametrize("pattern", [what for what, _ in SMALLER])
def test_what_is_made_smaller_is_still_documented(pattern: str) -> None:
    texts = [command.text for command in ALL if command.reason is None]
    assert any(re.search(pattern, text) for text in texts)


def test_pages_with_files_of_their_own_exist() -> None:
    assert set(PREPARE) <= {page.name for page in WITH_COMMANDS}


def test_commands_are_read_as_a_reader_reads_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\n# Why.\nmake it\ncoss-bench eval \\\n    runs/a  # now\n```\n\n"
        "```\n$ coss-bench list\nanything\n```\n\n```python\nimport torch\n```\n\n"
        "1. Do\n\n    ```bash\n    #!/bin/bash\n    srun coss-bench list\n    ```\n"
    )
    assert [command.text for command in commands(page)] == [
        "make it",
        "coss-bench eval      runs/a",
        "coss-bench list",
        "#!/bin/bash\nsrun coss-bench list\n",
    ]
