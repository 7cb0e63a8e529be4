//! What a wheel or an sdist says about itself: the core metadata (PEP 241, 345, 566), with which an index wants a file to be uploaded.

use std::{
    fs::File,
    io::{self, Read as _},
};

use flate2::read::GzDecoder;

use super::{PublishError, PublishSource};

/// The largest metadata, in bytes.
const MAX_METADATA_BYTES: u64 = 4 << 20;

/// A Python package.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PythonPackage {
    pub(super) name: String,
    pub(super) version: String,
    /// `bdist_wheel` or `sdist`.
    pub(super) file_type: &'static str,
    /// For which Python: the tag of a wheel, or `source`.
    pub(super) python: String,
    /// The fields of the upload form, without those above.
    pub(super) fields: Vec<(String, String)>,
}

impl PythonPackage {
    pub(super) fn read(source: &PublishSource) -> Result<Self, PublishError> {
        let invalid = |why: &str| PublishError::Invalid(format!("it is no Python package: {why}"));
        let name = source.name.as_deref().ok_or_else(|| invalid("what comes from standard input has no name"))?;
        let unreadable = |error: io::Error| invalid(&error.to_string());
        let file = source.file.try_clone().map_err(unreadable)?;
        let (file_type, python, text) = if name.ends_with(".whl") {
            let python = name.rsplit('-').nth(2).unwrap_or("py3").to_owned();
            ("bdist_wheel", python, wheel_metadata(file).map_err(unreadable)?)
        } else if name.ends_with(".tar.gz") {
            ("sdist", "source".to_owned(), sdist_metadata(file).map_err(unreadable)?)
        } else {
            return Err(invalid(&format!("`{name}` ends neither in .whl nor in .tar.gz")));
        };
        let text = text.ok_or_else(|| invalid("it has no metadata"))?;
        let mut fields = form_fields(&text);
        let mut take = |wanted: &str| {
            let index = fields.iter().position(|(field, _)| field == wanted);
            index.map(|index| fields.remove(index).1).ok_or_else(|| invalid(&format!("its metadata has no `{wanted}`")))
        };
        let (name, version) = (take("name")?, take("version")?);
        Ok(Self { name, version, file_type, python, fields })
    }

    /// The name as an index writes it in its URLs (PEP 503).
    pub(super) fn normalized_name(&self) -> String {
        let words = self.name.split(['-', '_', '.']).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-").to_lowercase()
    }
}

fn wheel_metadata(file: File) -> io::Result<Option<String>> {
    let mut archive = zip::ZipArchive::new(file).map_err(io::Error::other)?;
    let is_metadata = |name: &str| {
        name.split_once('/').is_some_and(|(folder, rest)| folder.ends_with(".dist-info") && rest == "METADATA")
    };
    let names = archive.file_names().filter_map(Result::ok).map(std::borrow::Cow::into_owned);
    let Some(name) = names.into_iter().find(|name| is_metadata(name)) else { return Ok(None) };
    let mut text = String::new();
    archive.by_name(&name).map_err(io::Error::other)?.take(MAX_METADATA_BYTES).read_to_string(&mut text)?;
    Ok(Some(text))
}

fn sdist_metadata(file: File) -> io::Result<Option<String>> {
    io::Seek::rewind(&mut &file)?;
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        if path.components().count() == 2 && path.file_name().is_some_and(|name| name == "PKG-INFO") {
            let mut text = String::new();
            entry.take(MAX_METADATA_BYTES).read_to_string(&mut text)?;
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// `Requires-Dist: x` becomes `requires_dist`; the body is the description.
fn form_fields(text: &str) -> Vec<(String, String)> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in head.lines() {
        // A continued line is indented.
        if let (Some(rest), Some((_, value))) = (line.strip_prefix([' ', '\t']), fields.last_mut()) {
            value.push('\n');
            value.push_str(rest.trim_start());
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((field_name(name), value.trim().to_owned()));
        }
    }
    if !body.trim().is_empty() {
        fields.push(("description".to_owned(), body.to_owned()));
    }
    fields
}

/// The fields that occur several times have the plural.
fn field_name(name: &str) -> String {
    match name.to_ascii_lowercase().replace('-', "_").as_str() {
        "classifier" => "classifiers".to_owned(),
        "project_url" => "project_urls".to_owned(),
        "license_file" => "license_files".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_becomes_the_fields_of_the_form() {
        let text = "Metadata-Version: 2.1\nName: shop\nClassifier: A\nClassifier: B\nLicense: one\n  two\n\n# Shop\n";
        let fields = form_fields(text);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [
            ("metadata_version", "2.1"),
            ("name", "shop"),
            ("classifiers", "A"),
            ("classifiers", "B"),
            ("license", "one\ntwo"),
            ("description", "# Shop\n"),
        ];
        assert_eq!(fields, expected);
    }
}
