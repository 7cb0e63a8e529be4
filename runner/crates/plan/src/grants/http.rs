//! The network grants of a step: HTTP origins and TCP addresses.

use super::{GrantReader, HTTP_KEYS, SharedGrants};
use crate::{
    ConfidentialText, GrantSource, HttpGrant, NetworkScope,
    address::{self, AddressError},
    fields::{self, MappingFields},
    yaml::{YamlKey, YamlNode, YamlValue},
};
use contract::{GrantName, text::escape_line};

impl GrantReader<'_> {
    /// Reads an item of `http`: the name of a grant at the top level, an origin, or a mapping.
    pub(super) fn http_item(&mut self, node: &YamlNode, shared: &SharedGrants) -> Option<HttpGrant> {
        let YamlValue::Text(text) = &node.kind else { return self.http(node) };
        let Ok(name) = text.parse::<GrantName>() else { return self.http(node) };
        match shared.http.get(&name) {
            Some(grant) => {
                let grant = self.valid_shared(grant, "http", &name, &node.span)?;
                Some(HttpGrant { source: GrantSource::Shared(name), ..grant })
            }
            None => {
                let names = shared.http.keys().map(GrantName::as_str);
                let write = format!(
                    "write an origin, such as `https://{text}`, or add `{text}: ORIGIN` to `http` at the top of the plan"
                );
                self.unknown_shared("http", text, &node.span, names, write)
            }
        }
    }

    pub(super) fn http(&mut self, node: &YamlNode) -> Option<HttpGrant> {
        let mut grant = HttpGrant {
            scheme: String::new(),
            host: String::new(),
            port: 0,
            methods: None,
            network: NetworkScope::Public,
            headers: Vec::new(),
            source: GrantSource::Step,
        };
        let origin = match &node.kind {
            YamlValue::Map(_) => {
                let fields = MappingFields::read(node, "an HTTP grant", &node.span, HTTP_KEYS, self.problems)?;
                if let Some(methods) = fields.get("methods") {
                    grant.methods = self.methods(methods);
                }
                match fields.get("private").map(|node| (&node.kind, node)) {
                    None | Some((YamlValue::Bool(false), _)) => {}
                    Some((YamlValue::Bool(true), _)) => grant.network = NetworkScope::Private,
                    Some((_, node)) => self.problems.push(fields::wrong_type(node, "`private`", "true or false")),
                }
                for (key, node) in self.mapping(&fields, "headers") {
                    grant.headers.extend(self.header(key, node));
                }
                fields.require("origin", "https://example.com", self.problems)?
            }
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Number { .. }
            | YamlValue::Text(_)
            | YamlValue::List(_) => node,
        };
        let text = self.text(origin, "an HTTP origin")?;
        match address::origin(&text) {
            Ok((scheme, host, port)) => Some(HttpGrant { scheme, host, port, ..grant }),
            Err(AddressError { reason: why, hint }) => {
                self.bad_grant(&origin.span, format!("`{text}` is not an HTTP origin: {why}"), "not an origin", &hint)
            }
        }
    }

    fn methods(&mut self, node: &YamlNode) -> Option<Vec<String>> {
        let items = fields::list(node, "`methods`", self.problems)?;
        let mut methods = Vec::new();
        for item in items {
            let text = self.text(item, "a method")?;
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                return self.bad_grant(
                    &item.span,
                    format!("`{text}` is not an HTTP method"),
                    "not an HTTP method",
                    "write a method such as `GET` or `POST`",
                );
            }
            methods.push(text.to_ascii_uppercase());
        }
        if methods.is_empty() {
            return self.bad_grant(
                &node.span,
                "an HTTP grant without methods grants nothing".into(),
                "empty",
                "remove `methods` to grant all of them",
            );
        }
        Some(methods)
    }

    fn header(&mut self, key: &YamlKey, node: &YamlNode) -> Option<(String, ConfidentialText)> {
        let name = key.text.to_ascii_lowercase();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return self.bad_grant(
                &key.span,
                format!("`{}` is not a header name", escape_line(&key.text)),
                "not a header name",
                "write a name such as `Authorization`",
            );
        }
        let value = self.scope.confidential(node, &format!("header `{name}`"), self.problems)?;
        if value.value.reveal().chars().any(|c| c.is_control() && c != '\t') {
            let message = format!("the value of header `{name}` contains a line break or another control character");
            return self.bad_grant(
                &node.span,
                message,
                "not a header value",
                "remove it; many secrets end with a line break",
            );
        }
        Some((name, value))
    }

    pub(super) fn tcp(&mut self, node: &YamlNode) -> Option<String> {
        let text = self.text(node, "a TCP address")?;
        match address::tcp(&text) {
            Ok(address) => Some(address),
            Err(AddressError { reason: why, hint }) => {
                self.bad_grant(&node.span, format!("`{text}` is not a TCP address: {why}"), "not an address", &hint)
            }
        }
    }
}
