"""A document of headed sections: as Markdown, and as one HTML file with its style and pictures in it."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Points:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    head: tuple[str, ...]  # empty strings: no head is shown
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    name: str
    title: str
    png: bytes
    caption: str = ""


Block = Text | Points | Table | Picture
Section = tuple[str, Sequence[Block]]

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1f2933; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin: 1.8rem 0 .6rem; border-bottom: 1px solid #d5dae1; }
.research { background: #fff4e5; border-left: 5px solid #d55e00; padding: .8rem 1rem; font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #e4e7eb; overflow-wrap: break-word; }
figure { display: inline-block; margin: 0 .8rem 1rem 0; max-width: 28rem; vertical-align: top; }
figcaption { font-size: .85rem; color: #52606d; } img { max-width: 100%; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


def to_markdown(title: str, warning: str, sections: Sequence[Section]) -> str:
    """A picture is referred to as `<name>.png` beside the document."""

    def cell(text: str) -> str:
        return escape(text, quote=False).replace("|", "\\|").replace("\n", " ")

    def block(content: Block) -> str:
        match content:
            case Text(text):
                return cell(text)
            case Points(items):
                return "\n".join(f"- {cell(item)}" for item in items)
            case Table(head, rows):
                lines = [head, tuple("---" for _ in head), *rows]
                return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)
            case Picture(name, title):
                return f"![{cell(title)}]({name}.png)"

    parts = [f"# {title}", f"> {warning}"]
    for head, content in sections:
        parts += [f"## {head}", *map(block, content)]
    return "\n\n".join(parts) + "\n"


def to_html(title: str, warning: str, sections: Sequence[Section]) -> str:
    """All text is escaped; nothing in the file runs, and it asks for nothing from elsewhere."""

    def row(tag: str, line: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in line) + "</tr>"

    def block(content: Block) -> str:
        match content:
            case Text(text):
                return f"<p>{escape(text)}</p>"
            case Points(items):
                return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
            case Table(head, rows):
                body = "".join(row("td", line) for line in rows)
                top = f"<thead>{row('th', head)}</thead>" if any(head) else ""
                return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'
            case Picture(_, title, png, caption):
                data = base64.b64encode(png).decode()
                below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
                return f'<figure><img alt="{escape(title)}" src="data:image/png;base64,{data}">{below}</figure>'

    body = "\n".join(f"<h2>{escape(head)}</h2>\n" + "\n".join(map(block, content)) for head, content in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n<body>\n'
        f'<h1>{escape(title)}</h1>\n<p class="research">{escape(warning)}</p>\n{body}\n</body>\n</html>\n'
    )
