"""The pages of docs/ keep their promises: their Python runs, the commands read their own lines,
links lead somewhere, and generated pages are what their scripts write.
"""

import ast
import re
import shlex
from pathlib import Path

import pytest

import tf_robust_transfer as rt
from scripts import update_reference
from tests.commands import COMMANDS
from tf_robust_transfer import command_line

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "docs/guide").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *(path for path in sorted((ROOT / "docs").rglob("*.md")))]
_LINK = re.compile(r"(?<!\\)\]\(([^()\s]+)\)")


def _name(path):
    return path.relative_to(ROOT).as_posix()


def _without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def _blocks(text, language):
    """(whether it is marked slow, its text) of each fenced block."""
    pattern = rf"(<!-- slow -->\n+)?```{language}\n(.*?)```"
    return [(bool(slow), code) for slow, code in re.findall(pattern, text, flags=re.DOTALL)]


def _python_pages(slow):
    return [
        pytest.param(path, id=path.stem)
        for path in GUIDES
        if not path.stem.startswith("extend")  # tests/extend_page_test.py
        and (blocks := _blocks(path.read_text(), "python"))
        and any(marked for marked, _ in blocks) == slow
    ]


def _run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for _, code in _blocks(path.read_text(), "python"):
        exec(compile(code, path.name, "exec"), names)
    return names


@pytest.mark.parametrize("path", _python_pages(slow=False))
def test_the_python_of_a_page_runs(path, tmp_path, monkeypatch):
    _run(path, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("path", _python_pages(slow=True))
def test_the_slow_python_of_a_page_runs(path, tmp_path, monkeypatch):
    _run(path, tmp_path, monkeypatch)


def _commands(path):
    """The lines of a page's shell blocks that start one of our programs."""
    text = path.read_text()
    blocks = [code for _, code in _blocks(text, "bash")]
    blocks += re.findall(r"(?:(?<=\n\n)|(?<=\n))((?: {4}.*\n)+)", _without_code(text))
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(\S*python\S* |scripts/|tensorboard )", line):
                yield line.strip()


COMMAND_LINES = [(path, line) for path in GUIDES for line in _commands(path)]


def test_commands_are_found():
    assert len(COMMAND_LINES) > 30


@pytest.mark.parametrize(
    ("path", "line"),
    COMMAND_LINES,
    ids=[f"{path.stem}-{line[-40:]}" for path, line in COMMAND_LINES],
)
def test_a_command_is_read(path, line, at_the_root, capsys):
    """Every flag and name is known; nothing is loaded or trained."""
    words = shlex.split(line, comments=True)
    own = [word for word in words[:2] if word.startswith(("scripts/", "benchmarks/"))]
    if own:
        script = ROOT / own[0]
        flags = re.findall(r"--(\w+)=", line)
        assert script.exists()
        assert all(f"--{flag}" in script.read_text() for flag in flags), flags
    elif words[1] == "-m" and words[2].startswith("tf_robust_transfer."):
        command = words[2].partition(".")[2]
        arguments = words[3:]
        if any("my_parts" in word for word in arguments):
            return  # tests/extend_page_test.py writes and runs them
        config = COMMANDS[command][1]
        try:
            command_line.parse(config, arguments)
        except SystemExit as end:
            assert "--help" in arguments and end.code == 0
    elif words[1] == "-c":
        ast.parse(words[2])
    elif words[1] == "examples/ray_train.py":
        assert (ROOT / words[1]).exists()
        command_line.parse(COMMANDS["train"][1], words[2:])
    else:
        assert words[0] == "tensorboard" or words[1:3] in (["-m", "pip"], ["-m", "venv"]), line


@pytest.mark.parametrize("path", GUIDES, ids=[path.stem for path in GUIDES])
def test_a_guide_is_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 120
    # What benchmarks/speed.py writes has lines of any length.
    lines = re.sub(r"<!-- speed .*?<!-- end -->", "", text, flags=re.DOTALL).splitlines()
    assert [line for line in lines if len(line) > 100 and line[0] not in "|!"] == []


def _anchors(path):
    """GitHub's names of a page's headings."""
    headings = re.findall(r"^#+ (.*)", _without_code(path.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=map(_name, PAGES))
def test_links_lead_somewhere(path):
    dead = []
    for link in _LINK.findall(_without_code(path.read_text())):
        target, _, anchor = link.partition("#")
        if re.match(r"https?:|mailto:", link):
            continue
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            dead.append(link)
    assert dead == []


def test_each_question_of_a_newcomer_has_an_answer():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (.*\?) \| \[.*\]\(.*\) \|$", text, flags=re.MULTILINE)
    assert len(rows) == 12


def test_the_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", text, flags=re.MULTILINE) == [rt.__version__]


def test_every_guide_is_in_the_index():
    index = (ROOT / "docs/index.md").read_text()
    assert [p.name for p in GUIDES if f"(guide/{p.name})" not in index] == []


def test_generated_pages_are_up_to_date():
    stale = [
        name
        for name, text in update_reference.pages().items()
        if not (update_reference.FOLDER / name).exists()
        or (update_reference.FOLDER / name).read_text() != text
    ]
    assert stale == [], "run python scripts/update_reference.py"


def _literal(node):
    """The text of a literal string, with a space for what is computed."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part) for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else " "


def _told(path, everything):
    """The lines that a module warns with; everything: that it returns, too, for others to warn."""
    for node in ast.walk(ast.parse(path.read_text())):
        value = None
        if isinstance(node, ast.Call) and node.args:
            told = ("_LOG.warning", "warnings.warn", *(["lines.append"] if everything else []))
            value = node.args[0] if ast.unparse(node.func) in told else None
        elif everything and isinstance(node, (ast.Return, ast.Yield, ast.Assign)):
            value = node.value
        for part in getattr(value, "elts", [value]):
            if len(text := _literal(part)) > 25 and " " in text.strip():
                yield text


def test_each_warning_is_explained_and_each_explained_one_exists():
    page = (ROOT / "docs/guide/trouble.md").read_text()
    tables = page[page.index("## Warnings about") : page.index("## Errors")]
    cells = re.findall(r"^\| (`.*?) \|", tables, flags=re.MULTILINE)
    phrases = [phrase for cell in cells for phrase in re.findall(r"`([^`]+)`", cell)]
    package = ROOT / "tf_robust_transfer"
    returned = ("evaluation/checks.py", "evaluation/batch_statistics.py", "attacks/apgd.py")
    lines = [
        line
        for path in package.rglob("*.py")
        for line in _told(path, path.relative_to(package).as_posix() in returned)
    ]
    assert len(lines) > 15
    assert [line for line in lines if not any(phrase in line for phrase in phrases)] == []
    assert [phrase for phrase in phrases if not any(phrase in line for line in lines)] == []
