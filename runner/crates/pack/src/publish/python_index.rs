//! A Python index, by the upload API that twine uses: one form, sent as a whole.
//!
//! An index shows a file when it has all of it, and most refuse a second file of that name. The pages of the index (PEP 503) say before
//! whether the name is taken, and by which content.

use reqwest::Method;
use url::Url;

use super::{
    PublishError, PublishSource, Published,
    package::PythonPackage,
    snippet,
    transfer::{Transfer, TransferRequest},
};
use contract::{Digest, Secret};

/// Between the parts of the form.
const BOUNDARY: &str = "pawl-7c3f1f0f9a3f4b1e8d6a";

pub(super) async fn publish(
    source: &PublishSource,
    url: &Url,
    authorization: Option<&Secret>,
    transfer: &Transfer,
) -> Result<Published, PublishError> {
    let package = PythonPackage::read(source)?;
    let upload = IndexUpload { source, url, authorization, transfer, package: &package };
    let was_published = match upload.found().await? {
        Some(found) => upload.check_same(&found).map(|()| true)?,
        None => upload.send().await?,
    };
    let digest = source.digest.clone();
    Ok(Published {
        location: format!("{}=={}", package.name, package.version),
        snippet: snippet::of_package(&package.name, &package.version, &digest.to_string()),
        digest,
        was_published,
        resumed_bytes: 0,
    })
}

struct IndexUpload<'a> {
    source: &'a PublishSource,
    url: &'a Url,
    authorization: Option<&'a Secret>,
    transfer: &'a Transfer,
    package: &'a PythonPackage,
}

impl IndexUpload<'_> {
    fn file_name(&self) -> &str {
        self.source.name.as_deref().unwrap_or_default()
    }

    /// The digest of the file of this name in the index.
    async fn found(&self) -> Result<Option<Digest>, PublishError> {
        for page in self.pages() {
            let request = self.request(Method::GET, page.clone()).header("accept", "text/html");
            let answer = self.transfer.send(self.source, &request).await?;
            if matches!(answer.status, 401 | 403) {
                return Err(answer.error(self.url, "the page of the package", self.authorization.is_some()));
            }
            if !answer.is_success() {
                continue;
            }
            let text = String::from_utf8_lossy(&answer.body);
            let Some(link) = file_link(&text, self.file_name()).and_then(|link| page.join(&link).ok()) else {
                continue;
            };
            let named = link.fragment().and_then(|fragment| fragment.strip_prefix("sha256=")?.parse().ok());
            return match named {
                Some(digest) => Ok(Some(digest)),
                None => self.transfer.digest_of(&self.request(Method::GET, link)).await.map(Some),
            };
        }
        Ok(None)
    }

    /// Where the index may have its page of the package: beside the upload, or at the root of the server; PyPI has another server for it.
    fn pages(&self) -> Vec<Url> {
        let page = format!("simple/{}/", self.package.normalized_name());
        let mut below = self.url.clone();
        below.set_path(&format!("{}/", self.url.path().trim_end_matches('/').trim_end_matches("/legacy")));
        if let Some(host) = self.url.host_str().and_then(|host| host.strip_prefix("upload.")).map(str::to_owned) {
            // What is wrong with it shows when it is asked.
            let _ = below.set_host(Some(&host));
        }
        let mut pages: Vec<Url> = [below.join(&page), below.join(&format!("/{page}"))].into_iter().flatten().collect();
        pages.dedup();
        pages
    }

    fn check_same(&self, found: &Digest) -> Result<(), PublishError> {
        match *found == self.source.digest {
            true => Ok(()),
            false => Err(PublishError::Differs {
                location: format!("{} in the index", self.file_name()),
                found: found.to_string(),
                ours: self.source.digest.clone(),
            }),
        }
    }

    /// Uploads the file. Returns whether it was there.
    async fn send(&self) -> Result<bool, PublishError> {
        let (before, after) = self.form();
        let request = self
            .request(Method::POST, self.url.clone())
            .header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"))
            .bytes(before)
            .range(0, self.source.size)
            .bytes(after);
        // Sent once: after a lost answer, the next call finds what became of it.
        let answer = self.transfer.send_once(self.source, &request).await?;
        // PyPI answers with 400 to a file that it has.
        if matches!(answer.status, 400 | 409)
            && let Some(found) = self.found().await?
        {
            return self.check_same(&found).map(|()| true);
        }
        match answer.is_success() {
            true => Ok(false),
            false => Err(answer.error(self.url, "the upload of the package", self.authorization.is_some())),
        }
    }

    /// What comes before and after the file.
    fn form(&self) -> (String, String) {
        let package = self.package;
        let sha256 = self.source.digest.hex();
        let fixed = [
            (":action", "file_upload"),
            ("protocol_version", "1"),
            ("name", package.name.as_str()),
            ("version", package.version.as_str()),
            ("filetype", package.file_type),
            ("pyversion", package.python.as_str()),
            ("sha256_digest", sha256.as_str()),
        ];
        let own = package.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let field = |(name, value): (&str, &str)| {
            format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let fields: String = fixed.into_iter().chain(own).map(field).collect();
        let file = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"content\"; filename=\"{}\"\r\n\
             content-type: application/octet-stream\r\n\r\n",
            self.file_name()
        );
        (fields + &file, format!("\r\n--{BOUNDARY}--\r\n"))
    }

    fn request(&self, method: Method, url: Url) -> TransferRequest {
        let is_index = url.origin() == self.url.origin();
        TransferRequest::new(method, url).authorization(self.authorization.filter(|_| is_index).cloned())
    }
}

/// The target of the link to a file in the page of a package.
fn file_link(page: &str, file: &str) -> Option<String> {
    let targets = page.split("href=").skip(1).filter_map(|rest| {
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest[1..].split_once(quote).map(|(target, _)| target.replace("&amp;", "&"))
    });
    targets.into_iter().find(|target| {
        let path = target.split(['#', '?']).next().unwrap_or_default();
        path.rsplit('/').next() == Some(file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_of_a_file_is_found_by_its_name() {
        let page =
            "<a href=\"../../packages/shop-1.tar.gz#sha256=ab\">x</a> <a href='/p/shop-2.tar.gz?a=1&amp;b=2'>y</a>";
        assert_eq!(file_link(page, "shop-1.tar.gz").as_deref(), Some("../../packages/shop-1.tar.gz#sha256=ab"));
        assert_eq!(file_link(page, "shop-2.tar.gz").as_deref(), Some("/p/shop-2.tar.gz?a=1&b=2"));
        assert_eq!(file_link(page, "shop-3.tar.gz"), None);
    }
}
