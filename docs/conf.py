"""The site of the documentation: `scripts/docs.sh` builds it.

The sources are the repository's Markdown pages as GitHub shows them: links between them are
relative, and a link to any other file of the repository is a link to a copy that the site keeps.
"""

import html
import os
import shutil
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes

ROOT = Path(__file__).resolve().parents[1]

project = author = "tf_robust_transfer"
# The repository's root is the source folder, so that CONTRIBUTING.md is a page of the site too.
root_doc = "docs/index"
include_patterns = ["CHANGELOG.md", "CONTRIBUTING.md", "docs/**.md"]
exclude_patterns = [
    *(path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "docs")
]
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nitpicky = True
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sphinx = html_show_copyright = False
html_math_renderer = "mathml"

# Where the site keeps copies of files of the repository.
COPIES = "files"
_IN_LISTINGS = (".csv", ".flags", ".json", ".md", ".txt")
_AS_THEY_ARE = (".ipynb", ".pdf", ".png", ".svg")


def link_repository_files(app, doctree):
    """Turns links to files and folders of the repository that are no pages into links to copies."""
    page = app.env.docname
    links = [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]
    for link in links:
        target = link["reftarget"].partition("#")[0]
        if not target:  # a place on the page itself
            continue
        markdown = link.get("refdomain") == "doc"  # named from the root, without its ending
        path = ROOT / f"{target}.md" if markdown else (ROOT / page).parent / target
        path = Path(os.path.normpath(path))
        if not path.is_relative_to(ROOT) or (markdown and target in app.env.found_docs):
            continue
        name = path.relative_to(ROOT).as_posix()
        if path.is_dir():
            _relink(link, page, f"{name}/index.html")
            app.env.copies.add(name)
        elif path.is_file():
            _relink(link, page, _copy_name(name))
            app.env.copies.add(name)


def _copy_name(name):
    """Browsers show text, whatever its language, where the name ends in .txt."""
    return name if name.endswith(_AS_THEY_ARE) else f"{name}.txt"


def _relink(link, page, target):
    up = "../" * page.count("/")
    reference = nodes.reference(
        "", "", *link.children, internal=True, refuri=f"{up}{COPIES}/{target}"
    )
    link.replace_self(reference)


def copy_linked_files(app, error):
    """Text files are copied as text, which browsers show; of a folder its listing and its files."""
    if error:
        return
    Path(app.outdir, "index.html").write_text(
        f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
    )
    out = Path(app.outdir) / COPIES
    shutil.rmtree(out, ignore_errors=True)
    for name in sorted(app.env.copies):
        source = ROOT / name
        if source.is_file():
            _copy(source, out / _copy_name(name))
            continue
        listed = sorted(path for path in source.rglob("*") if path.suffix in _IN_LISTINGS)
        items = []
        for path in listed:
            inner = path.relative_to(source).as_posix()
            _copy(path, out / name / f"{inner}.txt")
            items.append(f'<li><a href="{html.escape(inner)}.txt">{html.escape(inner)}</a></li>')
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name / "index.html").write_text(
            f"<!doctype html><meta charset=utf-8><title>{name}</title>"
            f"<h1>{name}</h1><ul>{''.join(items)}</ul>"
        )


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def inline_math(writer, node):
    """MathML, which browsers draw themselves: the site needs no script from elsewhere."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block_math(writer, node):
    writer.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app):
    app.connect("builder-inited", lambda app: setattr(app.env, "copies", set()))
    # Before Sphinx's own collector, which would keep the files as downloads.
    app.connect("doctree-read", link_repository_files, priority=100)
    app.connect("build-finished", copy_linked_files)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
