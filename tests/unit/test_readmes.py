"""The READMEs do not rot: what they name is there, and what a user may ask of them is in them."""

import ast
import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

from indexer.config.settings import PREFIX, Settings
from xrpc import errors
from xrpc.auth import refusals
from xrpc.methods.table import METHODS

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "indexer/README.md", "scripts/README.md", "xrpc/README.md")
LONGEST = 300  # lines of the README for users

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
ANCHOR = re.compile(r'<a name="([^"]+)">')
# What names a file or a folder of this repository, perhaps with something in it.
MENTION = re.compile(
    r"((?:indexer|xrpc|tests|scripts)/[\w./-]*|[\w-]+\.(?:sql|toml|lock|py))(?:::([\w.]+))?"
)
COMMAND = re.compile(r"(?<![\w./-])(?:scripts|tests)/[\w./-]+")
SETTING = re.compile(rf"^\| `({PREFIX}\w+)` \| (.+?) \| (.+?) \|", re.MULTILINE)
FAMILY = re.compile(r"_(?:counters?|gauges?|histogram)\(\s*\"(\w+)\"|\"rescind_(\w+)\"")
SHORT = ("rsvp.atmo.space.", "tools.ozone.verification.")  # prefixes that tables leave out


def read(path: str) -> str:
    return (ROOT / path).read_text()


def prose(page: Path) -> str:
    """Return what is outside of fenced blocks."""
    return FENCED.sub("", page.read_text())


def mentions(page: Path) -> list[tuple[str, str | None]]:
    """Return the paths that a README names, each with the name that is looked for there."""
    found = [match for code in CODE.findall(prose(page)) if (match := MENTION.fullmatch(code))]
    blocks = [block for language, block in FENCED.findall(page.read_text()) if language == "sh"]
    return [(match[1], match[2]) for match in found] + [
        (path, None) for block in blocks for path in COMMAND.findall(block)
    ]


@cache
def names(path: Path) -> frozenset[str]:
    """Return the functions, classes, methods and constants that a Python file defines."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found.add(node.name)
            case ast.ClassDef():
                inner = (ast.FunctionDef, ast.AsyncFunctionDef)
                found |= {node.name} | {
                    f"{node.name}.{part.name}" for part in node.body if isinstance(part, inner)
                }
            case ast.Assign():
                found |= {one.id for one in node.targets if isinstance(one, ast.Name)}
    return frozenset(found)


def elsewhere(name: str) -> str:
    """Return where a name is, for who has moved it."""
    places = [
        str(path.relative_to(ROOT))
        for top in ("indexer", "xrpc", "tests/unit", "tests/e2e")
        for path in sorted((ROOT / top).rglob("*.py"))
        if name in names(path)
    ]
    return ", ".join(places) or "nowhere"


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return what a link can lead to within a page, as GitHub names its headings."""
    text = prose(page)
    headings = (re.sub(r"[^\w -]", "", heading.lower()) for heading in HEADING.findall(text))
    return frozenset([*(heading.replace(" ", "-") for heading in headings), *ANCHOR.findall(text)])


@pytest.mark.parametrize("readme", READMES)
def test_every_file_and_name_that_a_readme_mentions_is_there(readme: str) -> None:
    found = mentions(ROOT / readme)
    missing = [path for path, _ in found if not (ROOT / path).exists()]
    missing += [
        f"{path}::{name} (it is in: {elsewhere(name)})"
        for path, name in found
        if name and not ((ROOT / path).is_file() and name in names(ROOT / path))
    ]
    assert found
    assert missing == []


@pytest.mark.parametrize("readme", READMES)
def test_every_link_between_readmes_leads_somewhere(readme: str) -> None:
    here, broken = ROOT / readme, []
    targets = [target for target in LINK.findall(prose(here)) if "://" not in target]
    for target in targets:
        path, _, anchor = target.partition("#")
        page = (here.parent / path).resolve() if path else here
        if not page.exists() or (anchor and anchor not in anchors(page)):
            broken.append(target)
    assert targets
    assert broken == []


def test_each_promise_has_code_and_tests() -> None:
    text = read("indexer/README.md")
    promises = text.partition("\n## What holds each promise\n")[2].split("\n### ")[1:]
    assert len(promises) == 9
    for promise in promises:
        held = [m for code in CODE.findall(promise) if (m := MENTION.fullmatch(code)) and m[2]]
        assert [m[0] for m in held if not m[1].startswith("tests/")], promise
        assert [m[0] for m in held if m[1].startswith("tests/")], promise


def test_the_table_of_settings_has_each_with_its_flag_and_default() -> None:
    rows = {name: (flag, default) for name, flag, default in SETTING.findall(read("README.md"))}
    assert set(rows) == {PREFIX + name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        flag, default = rows[PREFIX + name.upper()]
        if name != "secret_key":
            assert flag == f"`--{name.replace('_', '-')}`"
        match field.default:
            case bool():
                assert default == ("on" if field.default else "off")
            case float():
                assert default == f"`{field.default:g}`"
            case frozenset() if field.default:
                assert default == f"`{', '.join(sorted(field.default))}`"
            case None | frozenset():
                assert "`" not in default
            case _:
                assert default == f"`{field.default}`"


@pytest.mark.parametrize("nsid", sorted(METHODS))
def test_every_method_is_told_with_what_it_takes(nsid: str) -> None:
    text = read("xrpc/README.md")
    tail = nsid
    for prefix in SHORT:
        tail = tail.removeprefix(prefix)
    _, heading, section = text.partition(f"\n### `{nsid}`\n")
    row = next((line for line in text.splitlines() if line.startswith(f"| `{tail}` |")), None)
    told = section.partition("\n#")[0] if heading else row
    assert told is not None, f"xrpc/README.md says nothing of {nsid}"
    main = json.loads((files("xrpc") / "lexicons" / f"{nsid}.json").read_text())["defs"]["main"]
    taken = main["parameters"] if main["type"] == "query" else main["input"]["schema"]
    assert [name for name in taken["properties"] if not re.search(rf"\b{name}\b", told)] == []


def test_every_error_is_told() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    told = {kind.error for kind in kinds if issubclass(kind, errors.XrpcError)}
    told |= set(refusals.NAMES.values())
    told.discard(errors.AuthRequiredError.error)  # each refusal has a name of its own
    text = read("xrpc/README.md").partition("\n## Errors\n")[2].partition("\n## ")[0]
    assert sorted(told - set(CODE.findall(text))) == []


def test_every_metric_is_told() -> None:
    source = read("xrpc/serving/metrics.py")
    families = {one or other for one, other in FAMILY.findall(source)}
    text = read("xrpc/README.md").partition("\n## Health and metrics\n")[2]
    told = {
        re.sub(r"(_total)?(\{.*\})?$", "", code)
        for line in text.partition("\n## ")[0].splitlines()
        if line.startswith("| `")
        for code in CODE.findall(line)
    }
    assert told == families


def test_the_readme_for_users_stays_short() -> None:
    assert len(read("README.md").splitlines()) <= LONGEST
