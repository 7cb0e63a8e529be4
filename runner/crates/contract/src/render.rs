//! Renders a [`Diagnostic`] for people: message, excerpt with a caret, causes, hint.
//!
//! Invariant: no control character of a message or of the marked text reaches the terminal, and the output is short,
//! however long the marked line is. Deliberately absent: writing the output, and detecting whether the terminal has colours.

use std::fmt::Write;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use anstyle::{AnsiColor, Style};

use crate::diagnostic::{Diagnostic, Notice, NoticeSeverity, SourceExcerpt};
use crate::text;

/// Whether the output has ANSI colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColorMode {
    /// Plain text.
    Off,
    /// With colours.
    On,
}

const ERROR_STYLE: Style = AnsiColor::BrightRed.on_default().bold();
const WARNING_STYLE: Style = AnsiColor::BrightYellow.on_default().bold();
const BOLD_STYLE: Style = Style::new().bold();
const DIM_STYLE: Style = AnsiColor::BrightBlue.on_default().bold();
const HINT_STYLE: Style = AnsiColor::BrightCyan.on_default().bold();

/// The characters shown of a longer line: before the mark, and from the mark on.
const MAX_CHARS_BEFORE_MARK: usize = 60;
const MAX_CHARS_FROM_MARK: usize = 80;
/// The longest message, cause, label or hint, in characters.
const MAX_TEXT_CHARS: usize = 2_000;
/// Wider than any excerpt, since the renderer's own truncation would hide the mark.
const RENDER_WIDTH: usize = 100_000;

/// Renders an error, with a line break at its end.
#[must_use]
pub fn render_diagnostic(diagnostic: &Diagnostic, color: ColorMode) -> String {
    let paint = |style: Style, text: &str| match color {
        ColorMode::On => format!("{style}{text}{style:#}"),
        ColorMode::Off => text.to_owned(),
    };
    let head = paint(ERROR_STYLE, &format!("error[{}]", diagnostic.code));
    let message = paint(BOLD_STYLE, &format!(": {}", escape_bounded(&diagnostic.message)));
    let mut out = format!("{head}{message}\n");
    if let Some(excerpt) = &diagnostic.excerpt {
        out.push_str(&render_excerpt(excerpt, color, paint));
    }
    for cause in &diagnostic.causes {
        let mut lines = cause.trim_end().split('\n').map(escape_bounded);
        out.push_str(&format!("  {} {}\n", paint(BOLD_STYLE, "caused by:"), lines.next().unwrap_or_default()));
        lines.for_each(|line| out.push_str(&format!("    {}{line}\n", text::GUTTER)));
    }
    if let Some(hint) = &diagnostic.hint {
        out.push_str(&format!("  {} {}\n", paint(HINT_STYLE, "hint:"), escape_bounded(hint)));
    }
    text::without_legacy_commands(&out)
}

/// Renders a notice (`warning: …`), with a line break at its end.
#[must_use]
pub fn render_notice(notice: &Notice, color: ColorMode) -> String {
    let (style, word) = match notice.severity {
        NoticeSeverity::Note => (HINT_STYLE, "note"),
        NoticeSeverity::Warning => (WARNING_STYLE, "warning"),
    };
    let message = text::without_legacy_commands(&escape_bounded(&notice.message));
    match color {
        ColorMode::On => format!("{style}{word}:{style:#} {message}\n"),
        ColorMode::Off => format!("{word}: {message}\n"),
    }
}

/// The start and end of a marked text: lines and columns from 1, the last column included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkExtent {
    pub line: usize,
    pub column: usize,
    pub end_line: usize,
    pub end_column: usize,
}

/// The extent of an excerpt's mark.
pub fn mark_extent(excerpt: &SourceExcerpt) -> MarkExtent {
    let text = &*excerpt.text;
    let first = char_boundary_before(text, excerpt.span.start);
    // A mark that ends with its line does not reach into the next one.
    let marked = text[first..char_boundary_before(text, excerpt.span.end).max(first)].trim_end_matches(['\r', '\n']);
    let last = marked.char_indices().next_back().map_or(first, |(at, _)| first + at);
    let ((line, column), (last_line, last_column)) = (line_and_column(text, first), line_and_column(text, last));
    MarkExtent { line, column, end_line: last_line, end_column: last_column }
}

/// The line and the column of a byte, in characters, both from 1.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[..start].bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = text[start..at].chars().count() + 1;
    // A byte-order mark takes no column of what an editor shows.
    let has_mark = start == 0 && text[..at].starts_with('\u{feff}');
    (line, if has_mark { column - 1 } else { column })
}

fn render_excerpt(excerpt: &SourceExcerpt, color: ColorMode, paint: impl Fn(Style, &str) -> String) -> String {
    let line = MarkedLine::cut(excerpt);
    let gutter = " ".repeat(line.number.to_string().len());
    let place = format!("{}:{}:{}", escape_bounded(&excerpt.path), line.number, line.column);
    let label = escape_bounded(&excerpt.label);
    let mark = AnnotationKind::Primary.span(line.mark.clone()).label(label.as_str());
    let snippet = Snippet::source(line.shown.as_str()).line_start(line.number).annotation(mark);
    let renderer = match color {
        ColorMode::On => Renderer::styled(),
        ColorMode::Off => Renderer::plain(),
    };
    let drawn = renderer.term_width(RENDER_WIDTH).render(&[Group::with_level(Level::ERROR).element(snippet)]);
    format!("{gutter}{} {place}\n{drawn}\n", paint(DIM_STYLE, "-->"))
}

/// The marked line, truncated and escaped.
struct MarkedLine {
    /// From 1.
    number: usize,
    /// The column of the mark's start, in characters from 1.
    column: usize,
    shown: String,
    /// The byte range of the mark in `shown`.
    mark: std::ops::Range<usize>,
}

impl MarkedLine {
    fn cut(excerpt: &SourceExcerpt) -> Self {
        let text = &*excerpt.text;
        let at = char_boundary_before(text, excerpt.span.start);
        let end = char_boundary_before(text, excerpt.span.end).max(at);
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let stop = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let stop = if text[at..stop].ends_with('\r') { stop - 1 } else { stop };

        let (before, marked) = (&text[start..at], &text[at..end.min(stop).max(at)]);
        let (number, column) = line_and_column(text, at);

        let mut shown = String::new();
        let short = text[start..stop.max(at)].char_indices().nth(MAX_CHARS_BEFORE_MARK + MAX_CHARS_FROM_MARK).is_none();
        let (earlier, later) =
            if short { (usize::MAX, usize::MAX) } else { (MAX_CHARS_BEFORE_MARK, MAX_CHARS_FROM_MARK) };
        let from = before.char_indices().rev().nth(earlier - 1).map_or(0, |(from, _)| from);
        if from > 0 {
            shown.push('…');
        }
        push_escaped(&before[from..], &mut shown);
        let mark_start = shown.len();
        let kept = prefix_chars(marked, later);
        push_escaped(kept, &mut shown);
        let mark_end = shown.len();
        let rest = &text[at + kept.len()..stop.max(at + kept.len())];
        let tail = prefix_chars(rest, later - kept.chars().count());
        push_escaped(tail, &mut shown);
        if tail.len() < rest.len() {
            shown.push('…');
        }
        Self { number, column, shown, mark: mark_start..mark_end }
    }
}

/// The start of a text, at most `characters` long.
fn prefix_chars(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

/// The nearest character boundary at or before a byte.
fn char_boundary_before(text: &str, byte: usize) -> usize {
    text.floor_char_boundary(byte.min(text.len()))
}

fn escape_bounded(text: &str) -> String {
    let mut out = String::new();
    let start = prefix_chars(text, MAX_TEXT_CHARS);
    push_escaped(start, &mut out);
    if start.len() < text.len() {
        out.push('…');
    }
    out
}

/// Appends a text with control characters and bidirectional overrides escaped.
fn push_escaped(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '\t' => out.push_str("    "),
            '\u{feff}' => {}
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                write!(out, "{}", character.escape_unicode()).expect("a String takes everything");
            }
            _ if character.is_control() => {
                write!(out, "{}", character.escape_default()).expect("a String takes everything");
            }
            _ => out.push(character),
        }
    }
}
