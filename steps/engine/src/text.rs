//! Texts of the API: values in a URL, the frames of a log, and how a program has ended.

/// A value in the query of a URL.
pub(crate) fn encode(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The lines of a log. Without a terminal, it comes in frames of 8 bytes (stream, 3 zeros, length) with content; with one, as it is.
pub(crate) fn log_lines(bytes: &[u8]) -> Vec<String> {
    let content = unframed(bytes).unwrap_or_else(|| bytes.to_vec());
    let text = String::from_utf8_lossy(&content);
    text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn unframed(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(8)?;
        let [0..=2, 0, 0, 0, length @ ..] = head else { return None };
        let length = u32::from_be_bytes(length.try_into().ok()?);
        // The last frame may be cut off.
        let (frame, rest) = rest.split_at(rest.len().min(usize::try_from(length).ok()?));
        content.extend_from_slice(frame);
        bytes = rest;
    }
    Some(content)
}

/// An exit status in words. Engines report 128 + n after signal n.
pub(crate) fn exit_status(code: i64, is_out_of_memory: bool) -> String {
    let signal = match code {
        134 => ", as after SIGABRT",
        137 => ", as after SIGKILL",
        139 => ", as after SIGSEGV",
        143 => ", as after SIGTERM",
        _ => "",
    };
    let memory = if is_out_of_memory { "; it was out of memory" } else { "" };
    format!("exit status {code}{signal}{memory}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded() {
        assert_eq!(encode("a/b:1@sha256"), "a%2Fb%3A1%40sha256");
        assert_eq!(encode(r#"{"label":["a=b"]}"#), "%7B%22label%22%3A%5B%22a%3Db%22%5D%7D");
    }

    #[test]
    fn logs_are_unframed() {
        let mut framed = b"\x01\0\0\0\0\0\0\x04one\n".to_vec();
        framed.extend_from_slice(b"\x02\0\0\0\0\0\0\x09two\nthree");
        assert_eq!(log_lines(&framed), ["one", "two", "three"]);
        assert_eq!(log_lines(&framed[..20]), ["one"]);
        assert_eq!(log_lines(b"plain\r\ntext\n"), ["plain", "text"]);
        assert!(log_lines(b"").is_empty());
    }

    #[test]
    fn exit_status_names_signals() {
        assert_eq!(exit_status(3, false), "exit status 3");
        assert_eq!(exit_status(137, true), "exit status 137, as after SIGKILL; it was out of memory");
    }
}
