//! Texts for snapshots: what differs from run to run and from machine to machine is replaced by its name in brackets.

use std::path::Path;

/// From so many hex digits on, a word is a hash; one of digits alone is a number.
const MIN_HASH_DIGITS: usize = 8;

pub(super) fn normalize(text: &str, root: &Path) -> String {
    let text = mask_release_folders(mask_checksums(text.replace(&root.display().to_string(), "[ROOT]")));
    text.split_inclusive('\n').map(|line| mask_times(&mask_process_ids(&mask_words(line)))).collect()
}

/// Replaces `checksum is 3473d39e, its content has a3b3f209` and the like: one in forty checksums has decimal digits only, and looks like a
/// number.
fn mask_checksums(mut text: String) -> String {
    for before in ["checksum is ", "its content has ", "fingerprint "] {
        let places: Vec<_> = text.match_indices(before).map(|(at, _)| at + before.len()).collect();
        for start in places.into_iter().rev() {
            let digits = text[start..].bytes().take_while(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).count();
            if digits >= MIN_HASH_DIGITS {
                text.replace_range(start..start + digits, "[HASH]");
            }
        }
    }
    text
}

/// Replaces the digits in `releases/r1-33bcc941`.
fn mask_release_folders(mut text: String) -> String {
    let places: Vec<_> = text.match_indices("releases/").map(|(at, before)| at + before.len()).collect();
    for start in places.into_iter().rev() {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        let end = text[start..].find(|c| !is_of_name(c)).map_or(text.len(), |length| start + length);
        let Some(at) = text[start..end].rfind('-').map(|dash| start + dash + 1) else { continue };
        if end - at >= MIN_HASH_DIGITS && text[at..end].bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            text.replace_range(at..end, "[HASH]");
        }
    }
    text
}

/// Replaces the number in `process 1234`.
fn mask_process_ids(line: &str) -> String {
    match line.split_once("process ") {
        Some((before, after)) if after.starts_with(|c: char| c.is_ascii_digit()) => {
            format!("{before}process [PID]{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        Some(_) | None => line.to_owned(),
    }
}

/// Replaces hashes, runs, dates and who works here.
fn mask_words(line: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "@-.:_".contains(c);
    let mut out = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_part) {
        let end = rest[start..].find(|c| !is_part(c)).map_or(rest.len(), |length| start + length);
        out.push_str(&rest[..start]);
        let word = rest[start..end].trim_end_matches(['.', ':', '-']);
        out.push_str(replacement(word).as_deref().unwrap_or(word));
        rest = &rest[start + word.len()..];
        if word.is_empty() {
            let one = rest.chars().next().map_or(0, char::len_utf8);
            out.push_str(&rest[..one]);
            rest = &rest[one..];
        }
    }
    out + rest
}

fn replacement(word: &str) -> Option<String> {
    let is_hash = |text: &str| {
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        text.len() >= MIN_HASH_DIGITS && is_hex && text.bytes().any(|byte| byte.is_ascii_alphabetic())
    };
    let has_date = |text: &str| text.len() >= 10 && text.as_bytes()[4] == b'-' && text.starts_with("20");
    if let Some(hash) = word.strip_prefix("sha256:") {
        return is_hash(hash).then(|| "sha256:[HASH]".to_owned());
    }
    if word.starts_with("uid-") && word.contains('@') {
        return Some("[WHO]".to_owned());
    }
    if has_date(word) || word.len() >= 9 && word.ends_with('Z') && word.as_bytes()[2] == b':' {
        return Some("[DATE]".to_owned());
    }
    if let Some((number, hash)) = word.split_once('-')
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && hash.len() == 6
        && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Some(format!("[RUN {number}]"));
    }
    is_hash(word).then(|| "[HASH]".to_owned())
}

/// Replaces `   12 ms` and `1.3 s` by ` [TIME]`.
fn mask_times(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let end =
            rest[start..].find(|c: char| !c.is_ascii_digit() && c != '.').map_or(rest.len(), |length| start + length);
        let after = &rest[end..];
        let unit = [" ms", " s"].into_iter().find(|unit| {
            after.strip_prefix(unit).is_some_and(|more| !more.starts_with(|c: char| c.is_ascii_alphanumeric()))
        });
        match unit {
            Some(unit) => {
                let before = rest[..start].trim_end_matches(' ');
                out.push_str(before);
                out.push_str(if before.len() < start { " [TIME]" } else { "[TIME]" });
                rest = &after[unit.len()..];
            }
            None => {
                out.push_str(&rest[..end]);
                rest = after;
            }
        }
    }
    out + rest
}
