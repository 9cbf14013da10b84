"""What teachers and judges are told: Jinja2 templates of this folder, filled in with values that are data only.

A problem or a source text is never a template itself, so nothing in it is evaluated.
"""

import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

FOLDER = Path(__file__).parent


def render_prompt(template: str, own: str = "", **values: object) -> str:
    """The text of `<template>.j2`, or of the file `own` in its place; a value that it needs and lacks is an error.

    ValueError if the file is not there, is no template, or asks for what it is not given.
    """
    path = Path(own) if own else FOLDER / f"{template}.j2"
    loader = FileSystemLoader(path.parent, encoding="utf-8-sig")
    environment = Environment(loader=loader, undefined=StrictUndefined, autoescape=False)
    try:
        return environment.get_template(path.name).render(**values)
    except (TemplateError, ValueError, TypeError, ArithmeticError) as error:
        fault, known = str(error).partition("\n")[0], ", ".join(values)
        raise ValueError(f"prompt {path}: {fault}; it may use {known}") from None


def text_digest(text: str) -> str:
    """How a prompt is named in a dataset: the first 16 hex digits of its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
