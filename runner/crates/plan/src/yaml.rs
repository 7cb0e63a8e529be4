//! Parses YAML 1.2 into a tree in which every value has its byte range.
//!
//! Invariant: the tree is small. Bytes, values (after aliases are expanded) and levels are limited while it is built, so no
//! text makes it large or deep, and code that walks it may recurse. Deliberately absent: merge keys, tags, several
//! documents, and the meaning of a plan.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_json::Number;

use super::{
    error::{PlanError, PlanErrorCollector},
    scalar,
    syntax_hint::{SyntaxHint, syntax_hint},
};
use contract::error_code::ErrorCode;

/// What messages call the text of a plan.
const PLAN: &str = "the plan";
/// The longest text, in bytes.
const MAX_PLAN_BYTES: usize = 1 << 20;
/// The most values and keys, aliases expanded.
const MAX_NODES: usize = 20_000;
/// The deepest nesting.
const MAX_LEVELS: usize = 64;

/// A value and its position.
#[derive(Clone, Debug)]
pub(super) struct YamlNode {
    /// The byte range. For a block mapping or list, it begins with the first entry.
    pub(super) span: Range<usize>,
    /// The value.
    pub(super) kind: YamlValue,
}

/// A YAML value.
#[derive(Clone, Debug)]
pub(super) enum YamlValue {
    Null,
    Bool(bool),
    Number { value: Number, written: String },
    Text(String),
    List(Vec<YamlNode>),
    Map(Vec<(YamlKey, YamlNode)>),
}

/// A key of a mapping, always as a string.
#[derive(Clone, Debug)]
pub(super) struct YamlKey {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

impl YamlValue {
    /// The type's name, for "must be a string, not …".
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Bool(_) => "a boolean",
            Self::Number { .. } => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Parses the document of a plan. Returns `None` after an error that leaves no tree; after lesser errors, the tree is still returned.
pub(super) fn parse(text: &str, problems: &mut PlanErrorCollector) -> Option<YamlNode> {
    parse_named(text, PLAN, problems)
}

/// The same for a text that messages call `what`.
pub(super) fn parse_named(text: &str, what: &'static str, problems: &mut PlanErrorCollector) -> Option<YamlNode> {
    if text.len() > MAX_PLAN_BYTES {
        let message = format!("{what} is {} bytes long; the limit is {MAX_PLAN_BYTES} (1 MiB)", text.len());
        problems.push(
            PlanError::new(ErrorCode::PlanTooLarge, message)
                .hint("check that this is the right file; a plan is a page or two"),
        );
        return None;
    }
    let mut builder = YamlTreeBuilder {
        text,
        what,
        char_offsets: byte_offsets(text),
        open_collections: Vec::new(),
        anchors: HashMap::new(),
        node_count: 0,
        root: None,
        problems,
    };
    match builder.run() {
        Ok(()) if builder.root.is_none() => {
            let hint = match what {
                PLAN => "write a plan; docs/plan.md has an example",
                _ => "list the hosts, such as `- deploy@10.0.0.7`",
            };
            builder.problems.push(PlanError::new(ErrorCode::EmptyPlan, format!("{what} is empty")).hint(hint));
            None
        }
        Ok(()) => builder.root,
        Err(error) => {
            problems.push(*error);
            None
        }
    }
}

/// A mapping or list whose end the parser has not reached yet.
struct OpenCollection {
    start: usize,
    anchor: usize,
    content: CollectionContent,
}

enum CollectionContent {
    List(Vec<YamlNode>),
    Map { entries: Vec<(YamlKey, YamlNode)>, seen_keys: HashSet<String>, pending_key: PendingKey },
}

/// The key whose value comes next.
enum PendingKey {
    None,
    New(YamlKey),
    /// A duplicate that was reported already; its value is dropped.
    Repeated,
}

struct AnchoredNode {
    node: YamlNode,
    nodes: usize,
    levels: usize,
}

struct YamlTreeBuilder<'a> {
    text: &'a str,
    /// What the text is, in messages.
    what: &'static str,
    /// The byte offset of each character; `None` for ASCII text.
    char_offsets: Option<Vec<usize>>,
    open_collections: Vec<OpenCollection>,
    anchors: HashMap<usize, AnchoredNode>,
    node_count: usize,
    root: Option<YamlNode>,
    problems: &'a mut PlanErrorCollector,
}

type YamlResult = Result<(), Box<PlanError>>;

impl YamlTreeBuilder<'_> {
    fn run(&mut self) -> YamlResult {
        let mut parser = Parser::new_from_str(self.text);
        let mut documents = 0;
        while let Some(next) = parser.next_event() {
            let (event, span) = next.map_err(|error| Box::new(self.syntax(&error)))?;
            let span = self.range(span);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        let message = format!("{} has more than one document", self.what);
                        return Err(not_yaml(&message, &span, "a second one starts here")
                            .hint("keep one document; put environments under `environments:`")
                            .into());
                    }
                }
                Event::Scalar(value, style, anchor, tag) => {
                    reject_tag(tag.is_some(), &span)?;
                    let span = self.without_trailing_text(self.without_anchor(span, anchor), style);
                    self.scalar(value.into_owned(), style, anchor, span)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    reject_tag(tag.is_some(), &span)?;
                    self.begin(CollectionContent::List(Vec::new()), anchor, &span)?;
                }
                Event::MappingStart(anchor, tag) => {
                    reject_tag(tag.is_some(), &span)?;
                    let map = CollectionContent::Map {
                        entries: Vec::new(),
                        seen_keys: HashSet::new(),
                        pending_key: PendingKey::None,
                    };
                    self.begin(map, anchor, &span)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.end(&span)?,
                Event::Alias(anchor) => self.alias(anchor, &span)?,
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(())
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, anchor: usize, span: Range<usize>) -> YamlResult {
        self.count_nodes(1, &span)?;
        if let Some(OpenCollection {
            content: CollectionContent::Map { pending_key: key @ PendingKey::None, seen_keys: seen, entries },
            ..
        }) = self.open_collections.last_mut()
        {
            if text == "<<" && style == ScalarStyle::Plain {
                return Err(not_yaml("merge keys (`<<`) are not supported", &span, "a merge key")
                    .hint("write the keys out, or give the whole mapping an alias")
                    .into());
            }
            if seen.insert(text.clone()) {
                *key = PendingKey::New(YamlKey { text, span });
                return Ok(());
            }
            *key = PendingKey::Repeated;
            if !self.problems.is_full() {
                let first =
                    entries.iter().find(|(other, _)| other.text == text).map_or(0, |(other, _)| other.span.start);
                let line = 1 + self.text[..first].matches('\n').count();
                let error = PlanError::new(ErrorCode::DuplicateKey, format!("duplicate key `{text}`"));
                self.problems.push(
                    error.at(&span, "the second one").hint(format!("remove one; the first one is on line {line}")),
                );
            }
            return Ok(());
        }
        let kind = match style {
            ScalarStyle::Plain => scalar::resolve(&text).unwrap_or_else(|why| {
                let error =
                    PlanError::new(ErrorCode::InvalidValue, format!("the number `{text}` is ambiguous or too large"));
                self.problems.push(error.at(&span, why).hint(format!("to write a string, quote it: \"{text}\"")));
                YamlValue::Text(text)
            }),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted | ScalarStyle::Literal | ScalarStyle::Folded => {
                YamlValue::Text(text)
            }
        };
        self.add_node(YamlNode { span, kind }, anchor)
    }

    fn begin(&mut self, content: CollectionContent, anchor: usize, span: &Range<usize>) -> YamlResult {
        self.count_nodes(1, span)?;
        self.reject_collection_as_key(span)?;
        self.check_levels(1, span)?;
        self.open_collections.push(OpenCollection { start: span.start, anchor, content });
        Ok(())
    }

    fn end(&mut self, span: &Range<usize>) -> YamlResult {
        let open = self.open_collections.pop().expect("the parser pairs starts and ends");
        let (kind, last) = match open.content {
            CollectionContent::List(items) => {
                let last = items.last().map(|item| item.span.end);
                (YamlValue::List(items), last)
            }
            CollectionContent::Map { entries, .. } => {
                let last = entries.last().map(|(key, value)| value.span.end.max(key.span.end));
                (YamlValue::Map(entries), last)
            }
        };
        // A flow collection ends with its bracket, a block one with its last entry.
        let end = if span.is_empty() { last.unwrap_or(open.start) } else { span.end };
        self.add_node(YamlNode { span: open.start..end.max(open.start), kind }, open.anchor)
    }

    fn alias(&mut self, anchor: usize, span: &Range<usize>) -> YamlResult {
        self.reject_collection_as_key(span)?;
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(not_yaml("an alias refers to its own anchor", span, "endless").hint("remove the alias").into());
        };
        let (node, nodes, levels) = (anchored.node.clone(), anchored.nodes, anchored.levels);
        self.count_nodes(nodes, span)?;
        self.check_levels(levels, span)?;
        self.add_node(node, 0)
    }

    fn add_node(&mut self, node: YamlNode, anchor: usize) -> YamlResult {
        if anchor != 0 {
            let (nodes, levels) = measure(&node);
            // The copy for aliases costs memory even if no alias follows.
            self.count_nodes(nodes, &node.span)?;
            self.anchors.insert(anchor, AnchoredNode { node: node.clone(), nodes, levels });
        }
        match self.open_collections.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(CollectionContent::List(items)) => items.push(node),
            Some(CollectionContent::Map { entries, pending_key: key, .. }) => {
                match std::mem::replace(key, PendingKey::None) {
                    PendingKey::New(key) => entries.push((key, node)),
                    PendingKey::Repeated => {}
                    PendingKey::None => {
                        unreachable!("`scalar` and `reject_collection_as_key` put a key before each value")
                    }
                }
            }
        }
        Ok(())
    }

    fn reject_collection_as_key(&self, span: &Range<usize>) -> YamlResult {
        match self.open_collections.last().map(|open| &open.content) {
            Some(CollectionContent::Map { pending_key: PendingKey::None, .. }) => {
                Err(not_yaml("a key must be a plain string", span, "not a key").hint("write a name as the key").into())
            }
            Some(CollectionContent::Map { .. } | CollectionContent::List(_)) | None => Ok(()),
        }
    }

    fn count_nodes(&mut self, nodes: usize, span: &Range<usize>) -> YamlResult {
        self.node_count += nodes;
        if self.node_count <= MAX_NODES {
            return Ok(());
        }
        let message = format!("{} is too complex: more than {MAX_NODES} values, aliases expanded", self.what);
        let error = PlanError::new(ErrorCode::PlanTooLarge, message).at(span, "one too many");
        Err(error.hint("use fewer aliases; a plan is a page or two").into())
    }

    fn check_levels(&self, more: usize, span: &Range<usize>) -> YamlResult {
        if self.open_collections.len() + more <= MAX_LEVELS {
            return Ok(());
        }
        let message = format!("{} is nested too deeply: more than {MAX_LEVELS} levels", self.what);
        let error = PlanError::new(ErrorCode::PlanTooLarge, message).at(span, "one level too many");
        Err(error.hint("use fewer levels; a plan has about six").into())
    }

    /// Removes the anchor from a range: the parser's range of an anchored scalar begins at its anchor.
    fn without_anchor(&self, span: Range<usize>, anchor: usize) -> Range<usize> {
        let Some(rest) = self.text[span.clone()].strip_prefix('&').filter(|_| anchor > 0) else { return span };
        let value = rest.trim_start_matches(|c: char| !c.is_whitespace()).trim_start();
        if value.is_empty() { span } else { span.end - value.len()..span.end }
    }

    /// Ends a range at the closing quote: the parser's ranges of quoted scalars may extend to the end of the line.
    fn without_trailing_text(&self, span: Range<usize>, style: ScalarStyle) -> Range<usize> {
        let slice = &self.text[span.clone()];
        let mut rest = slice.char_indices().skip(1);
        let end = match style {
            ScalarStyle::DoubleQuoted if slice.starts_with('"') => loop {
                match rest.next() {
                    Some((_, '\\')) => drop(rest.next()),
                    Some((at, '"')) => break at + 1,
                    Some(_) => {}
                    None => break slice.len(),
                }
            },
            ScalarStyle::SingleQuoted if slice.starts_with('\'') => loop {
                match rest.next() {
                    Some((at, '\'')) if !slice[at + 1..].starts_with('\'') => break at + 1,
                    Some((_, '\'')) => drop(rest.next()),
                    Some(_) => {}
                    None => break slice.len(),
                }
            },
            ScalarStyle::DoubleQuoted | ScalarStyle::SingleQuoted | ScalarStyle::Plain => slice.len(),
            ScalarStyle::Literal | ScalarStyle::Folded => slice.trim_end().len(),
        };
        span.start..span.start + end
    }

    fn syntax(&self, error: &ScanError) -> PlanError {
        let at = self.byte(error.marker().index());
        if let Some(tab) = self.tab_after(at, error.info().contains("tab")) {
            return not_yaml("the indentation contains a tab", &(tab..tab + 1), "a tab")
                .hint("indent with spaces only");
        }
        let message = &format!("{} is not valid YAML", self.what);
        if let Some(SyntaxHint { span, hint }) = syntax_hint(self.text, at, error.info()) {
            return not_yaml(message, &span, error.info()).hint(hint);
        }
        let end = self.text[at..].chars().next().map_or(at, |first| at + first.len_utf8());
        not_yaml(message, &(at..end), error.info())
    }

    /// The first tab in the indentation near a syntax error; anywhere after it if the parser itself reports a tab.
    fn tab_after(&self, at: usize, search_all: bool) -> Option<usize> {
        let mut start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        for line in self.text[start..].split_inclusive('\n').take(if search_all { usize::MAX } else { 2 }) {
            let indentation = line.len() - line.trim_start_matches([' ', '\t']).len();
            if let Some(tab) = line[..indentation].find('\t')
                && !line.trim().is_empty()
            {
                return Some(start + tab);
            }
            start += line.len();
        }
        None
    }

    fn range(&self, span: Span) -> Range<usize> {
        let (start, end) = (self.byte(span.start.index()), self.byte(span.end.index()));
        start..end.max(start)
    }

    /// The byte offset of a character, since the parser counts characters.
    fn byte(&self, character: usize) -> usize {
        match &self.char_offsets {
            None => character.min(self.text.len()),
            Some(bytes) => bytes.get(character).copied().unwrap_or(self.text.len()),
        }
    }
}

fn byte_offsets(text: &str) -> Option<Vec<usize>> {
    (!text.is_ascii()).then(|| text.char_indices().map(|(byte, _)| byte).collect())
}

fn not_yaml(message: &str, span: &Range<usize>, label: &str) -> PlanError {
    PlanError::new(ErrorCode::NotYaml, message).at(span, label)
}

fn reject_tag(tagged: bool, span: &Range<usize>) -> YamlResult {
    if tagged {
        return Err(not_yaml("tags are not supported", span, "a tag")
            .hint("remove the tag; to write a string, quote it")
            .into());
    }
    Ok(())
}

/// The number of values and keys in a node, and of its levels.
fn measure(node: &YamlNode) -> (usize, usize) {
    let inner: (usize, usize) = match &node.kind {
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } | YamlValue::Text(_) => return (1, 0),
        YamlValue::List(items) => items.iter().map(measure).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1.max(one.1))),
        YamlValue::Map(entries) => entries
            .iter()
            .map(|(_, value)| measure(value))
            .fold((0, 0), |sum, one| (sum.0 + one.0 + 1, sum.1.max(one.1))),
    };
    (inner.0 + 1, inner.1 + 1)
}
