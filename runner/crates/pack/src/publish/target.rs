//! Where to publish, as users write it.

use std::path::PathBuf;

use plan::OciRef;
use url::Url;

use super::PublishError;

/// A target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishTarget {
    /// The path of the file.
    Folder(PathBuf),
    /// The URL of the file.
    Http(Url),
    /// The key of the object.
    S3 {
        bucket: String,
        key: String,
    },
    Oci(OciRef),
    /// The URL of an index's upload API.
    PythonIndex(Url),
}

impl PublishTarget {
    /// Parses a target. `name` is that of the file, which a target that ends in `/` or is an existing folder gets.
    ///
    /// # Errors
    /// [`PublishError::Invalid`].
    pub fn parse(text: &str, name: Option<&str>) -> Result<Self, PublishError> {
        let invalid = |why: String| PublishError::Invalid(format!("`{text}` is no target: {why}"));
        let named = |place: &str| match (place.ends_with('/'), name) {
            (false, _) => Ok(place.to_owned()),
            (true, Some(name)) => Ok(format!("{place}{name}")),
            (true, None) => {
                Err(invalid("what comes from standard input has no name; end the target in one".to_owned()))
            }
        };
        if let Some(reference) = text.strip_prefix("oci://") {
            return match OciRef::parse(reference).map_err(invalid)? {
                tagged @ OciRef { digest: None, .. } => Ok(Self::Oci(tagged)),
                OciRef { .. } => Err(invalid("a release is published under a tag, not a digest".to_owned())),
            };
        }
        if let Some(index) = text.strip_prefix("pypi+") {
            return Ok(Self::PythonIndex(web_url(index).map_err(invalid)?));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Http(web_url(&named(text)?).map_err(invalid)?));
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let rest = named(rest)?;
            let (bucket, key) = rest.split_once('/').unwrap_or((&rest, ""));
            if bucket.is_empty() || key.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return Err(invalid("write s3://BUCKET/KEY".to_owned()));
            }
            return Ok(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() });
        }
        let path = text.strip_prefix("file:").unwrap_or(text);
        if text.split_once("://").is_some() {
            return Err(invalid("unknown scheme".to_owned()));
        }
        let is_folder = !path.ends_with('/') && PathBuf::from(path).is_dir();
        let path = if is_folder { format!("{path}/") } else { path.to_owned() };
        Ok(Self::Folder(named(&path)?.into()))
    }
}

fn web_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    match () {
        () if !matches!(url.scheme(), "http" | "https") => Err("it is neither http nor https".to_owned()),
        () if !url.username().is_empty() || url.password().is_some() => {
            Err("a URL must not contain a password; use `--authorization`".to_owned())
        }
        () if url.query().is_some() || url.fragment().is_some() => Err("it has a query".to_owned()),
        () => Ok(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<PublishTarget, String> {
        PublishTarget::parse(text, Some("shop.tar.zst")).map_err(|error| error.to_string())
    }

    #[test]
    fn targets_are_told_by_their_schemes() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert_eq!(parsed("dist/"), Ok(PublishTarget::Folder("dist/shop.tar.zst".into())));
        assert_eq!(parsed("file:dist/x.tar.zst"), Ok(PublishTarget::Folder("dist/x.tar.zst".into())));
        assert_eq!(parsed("https://h/r/"), Ok(PublishTarget::Http(url("https://h/r/shop.tar.zst"))));
        assert_eq!(parsed("https://h/r/x"), Ok(PublishTarget::Http(url("https://h/r/x"))));
        let s3 = PublishTarget::S3 { bucket: "b".to_owned(), key: "k/shop.tar.zst".to_owned() };
        assert_eq!(parsed("s3://b/k/"), Ok(s3));
        assert_eq!(parsed("pypi+https://h/legacy/"), Ok(PublishTarget::PythonIndex(url("https://h/legacy/"))));
        assert!(matches!(parsed("oci://h/shop:r1"), Ok(PublishTarget::Oci(_))));
        for (text, why) in [
            ("gs://b/k", "unknown scheme"),
            ("https://ann:x@h/r", "must not contain a password"),
            ("s3://b", "write s3://BUCKET/KEY"),
            ("s3://b/../k", "write s3://BUCKET/KEY"),
            ("oci://h/shop", "neither a tag nor a digest"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let unnamed = PublishTarget::parse("dist/", None).unwrap_err().to_string();
        assert!(unnamed.contains("standard input has no name"), "{unnamed}");
    }
}
