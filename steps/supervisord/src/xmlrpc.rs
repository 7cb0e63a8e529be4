//! XML-RPC, as supervisord speaks it: <http://xmlrpc.com/spec.md>. Own code, because a general reader of XML is as large as a component.
//!
//! Deliberately absent: dates, binary values, attributes and CDATA, which supervisord does not send.

use pawl_step::Failure;
use serde_json::{Map, Value};

/// How deep values may be nested.
const MAX_DEPTH: usize = 8;

/// An answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// What the method returned.
    Value(Value),
    /// Why the method did nothing.
    Fault {
        /// The number of the fault.
        code: i64,
        /// Its text.
        text: String,
    },
}

/// The text of a call. Parameters are texts, whole numbers and booleans.
pub(crate) fn call(method: &str, parameters: &[Value]) -> String {
    let mut text = format!("<?xml version='1.0'?><methodCall><methodName>{method}</methodName><params>");
    for parameter in parameters {
        let value = match parameter {
            Value::Bool(value) => format!("<boolean>{}</boolean>", u8::from(*value)),
            Value::Number(number) => format!("<int>{number}</int>"),
            Value::String(text) => format!("<string>{}</string>", escape(text)),
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
        };
        text.push_str("<param><value>");
        text.push_str(&value);
        text.push_str("</value></param>");
    }
    text + "</params></methodCall>"
}

/// Parses the text of an answer.
pub(crate) fn parse(text: &str) -> Result<Answer, Failure> {
    let mut reader = Reader { rest: text };
    let parsed = reader.answer();
    parsed.ok_or_else(|| {
        let begin: String = text.chars().take(80).collect();
        Failure::permanent(format!("the answer is not one of XML-RPC: `{}`", begin.replace('\n', " ")))
            .hint("grant the socket of supervisord: `[unix_http_server] file=…` in its configuration")
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let (name, behind) = after.split_once(';').unwrap_or((after, ""));
        match name {
            "lt" => plain.push('<'),
            "gt" => plain.push('>'),
            "amp" => plain.push('&'),
            "quot" => plain.push('"'),
            "apos" => plain.push('\''),
            number => plain.extend(character(number)),
        }
        rest = behind;
    }
    plain + rest
}

/// The character of `#10` or `#xA`.
fn character(name: &str) -> Option<char> {
    let digits = name.strip_prefix('#')?;
    let number = match digits.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    char::from_u32(number.ok()?)
}

struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn answer(&mut self) -> Option<Answer> {
        if self.rest.trim_start().starts_with("<?") {
            self.rest = self.rest.split_once("?>")?.1;
        }
        self.expect("<methodResponse>")?;
        if !self.take("<fault>") {
            self.expect("<params>")?;
            self.expect("<param>")?;
            return self.value(0).map(Answer::Value);
        }
        let fault = self.value(0)?;
        let text = fault.get("faultString").and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Answer::Fault { code: fault.get("faultCode")?.as_i64()?, text })
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.expect("<value>")?;
        if self.take("</value>") {
            return Some(Value::from(""));
        }
        if !self.rest.trim_start().starts_with('<') {
            return self.until("</value>").map(|text| unescape(text).into());
        }
        let value = self.typed(depth)?;
        self.expect("</value>")?;
        Some(value)
    }

    fn typed(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        if self.take("<string>") {
            return self.until("</string>").map(|text| unescape(text).into());
        }
        if self.take("<string/>") {
            return Some("".into());
        }
        for (open, close) in [("<int>", "</int>"), ("<i4>", "</i4>")] {
            if self.take(open) {
                return self.until(close)?.trim().parse::<i64>().ok().map(Value::from);
            }
        }
        if self.take("<boolean>") {
            return self.until("</boolean>").map(|text| Value::Bool(text.trim() == "1"));
        }
        if self.take("<nil/>") {
            return Some(Value::Null);
        }
        if self.take("<array>") {
            return self.array(depth);
        }
        self.expect("<struct>")?;
        let mut members = Map::new();
        while self.take("<member>") {
            self.expect("<name>")?;
            let name = unescape(self.until("</name>")?);
            members.insert(name, self.value(depth + 1)?);
            self.expect("</member>")?;
        }
        self.expect("</struct>")?;
        Some(Value::Object(members))
    }

    fn array(&mut self, depth: usize) -> Option<Value> {
        let mut values = Vec::new();
        if !self.take("<data/>") {
            self.expect("<data>")?;
            while !self.take("</data>") {
                values.push(self.value(depth + 1)?);
            }
        }
        self.expect("</array>")?;
        Some(Value::Array(values))
    }

    /// Passes over a tag, with white space before it.
    fn take(&mut self, tag: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(tag);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, tag: &str) -> Option<()> {
        self.take(tag).then_some(())
    }

    fn until(&mut self, tag: &str) -> Option<&'t str> {
        let (text, rest) = self.rest.split_once(tag)?;
        self.rest = rest;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn calls_are_written() {
        let text = call("supervisor.stopProcess", &["a<b&c".into(), true.into(), 7.into()]);
        assert_eq!(
            text,
            "<?xml version='1.0'?><methodCall><methodName>supervisor.stopProcess</methodName><params>\
             <param><value><string>a&lt;b&amp;c</string></value></param><param><value><boolean>1</boolean></value></param>\
             <param><value><int>7</int></value></param></params></methodCall>"
        );
    }

    #[test]
    fn answers_are_read() {
        let of = |value: &str| {
            parse(&format!(
                "<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value>{value}</value>\n</param>\n</params>\n</methodResponse>\n"
            ))
        };
        for (text, value) in [
            ("<string>a &lt;b&gt; &amp;amp; &#10;&#x41;\n c</string>", json!("a <b> &amp; \nA\n c")),
            ("<int>-7</int>", json!(-7)),
            ("<boolean>0</boolean>", json!(false)),
            ("plain", json!("plain")),
            ("", json!("")),
            ("<nil/>", Value::Null),
            (
                "<array><data>\n<value><array><data>\n</data></array></value>\n<value><i4>1</i4></value></data></array>",
                json!([[], 1]),
            ),
            (
                "<struct>\n<member>\n<name>pid</name>\n<value><int>3</int></value>\n</member>\n</struct>",
                json!({ "pid": 3 }),
            ),
        ] {
            assert_eq!(of(text).unwrap(), Answer::Value(value), "{text}");
        }
        for text in ["<int>x</int>", "<string>", "<struct><member>", "<double>1</double>"] {
            assert!(of(text).is_err(), "{text}");
        }
        assert!(of(&"<array><data><value>".repeat(100)).is_err());
    }

    #[test]
    fn faults_are_read() {
        let text = "<?xml version='1.0'?><methodResponse><fault><value><struct><member><name>faultCode</name><value><int>10</int>\
             </value></member><member><name>faultString</name><value><string>BAD_NAME: x</string></value></member></struct></value>\
             </fault></methodResponse>";
        assert_eq!(parse(text).unwrap(), Answer::Fault { code: 10, text: "BAD_NAME: x".to_owned() });
        assert!(parse("<html>").unwrap_err().message.contains("`<html>`"));
    }
}
