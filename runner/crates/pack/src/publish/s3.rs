//! A large object in a bucket: in parts, which the bucket keeps until the upload is completed or aborted. Completing is conditional, so
//! the object appears as a whole, and only where none is.

use quick_xml::de::from_str;
use reqwest::Method;
use serde::Deserialize;

use super::{
    PublishError, PublishSource,
    session::{UploadSession, UploadSessions},
    transfer::{Transfer, TransferAnswer},
    web::WebPlace,
};

/// Up to here, one request does; in bytes.
const MAX_SINGLE_BYTES: u64 = 32 << 20;
/// The bytes of a part, unless there would be too many.
const PART_BYTES: u64 = 16 << 20;
/// S3's limit.
const MAX_PARTS: u64 = 10_000;

/// How to send in parts.
pub(super) struct MultipartUpload<'a> {
    pub(super) sessions: &'a UploadSessions,
    pub(super) chunk_bytes: Option<u64>,
    pub(super) tell: &'a (dyn Fn(String) + Send + Sync),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreatedUpload {
    upload_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedParts {
    #[serde(default, rename = "Part")]
    parts: Vec<ListedPart>,
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_part_number_marker: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedPart {
    part_number: u64,
    #[serde(rename = "ETag")]
    tag: String,
    size: u64,
}

impl MultipartUpload<'_> {
    pub(super) fn is_for(&self, source: &PublishSource) -> bool {
        source.size > self.chunk_bytes.unwrap_or(MAX_SINGLE_BYTES)
    }

    /// Sends what the bucket does not have. Returns its last answer, and the bytes that it had.
    pub(super) async fn send(
        &self,
        source: &PublishSource,
        place: &WebPlace,
        transfer: &Transfer,
        target: &str,
    ) -> Result<(TransferAnswer, u64), PublishError> {
        let session = self.sessions.find(target, &source.digest);
        let known = match &session {
            Some(session) => self.listed(source, place, transfer, session).await?,
            None => None,
        };
        let (session, parts) = match session.zip(known) {
            Some(found) => found,
            None => {
                self.abandon(source, place, transfer, target).await;
                (self.begin(source, place, transfer, target).await?, Vec::new())
            }
        };
        let resumed = parts.iter().map(|part| part.size).sum();
        if resumed > 0 {
            (self.tell)(format!("continuing after {resumed} of {} bytes", source.size));
        }
        let parts = self.send_rest(source, place, transfer, &session, parts).await?;
        let query = [("uploadId", session.upload.as_str())];
        let complete = place.request(Method::POST, "", &query).await?.header("if-none-match", "*");
        let answer = failed_later(transfer.send(source, &complete.bytes(completion(&parts))).await?);
        if answer.is_success() {
            self.sessions.remove(target, &source.digest);
        } else if answer.status == 412 {
            self.abandon(source, place, transfer, target).await;
        }
        Ok((answer, resumed))
    }

    /// Removes the parts that an upload has left, if there are any: they would be paid for. Where that fails, the bucket's own rules remain.
    pub(super) async fn abandon(&self, source: &PublishSource, place: &WebPlace, transfer: &Transfer, target: &str) {
        let Some(session) = self.sessions.find(target, &source.digest) else { return };
        if let Ok(request) = place.request(Method::DELETE, "", &[("uploadId", session.upload.as_str())]).await {
            let _ = transfer.send(source, &request).await;
        }
        self.sessions.remove(target, &source.digest);
    }

    async fn begin(
        &self,
        source: &PublishSource,
        place: &WebPlace,
        transfer: &Transfer,
        target: &str,
    ) -> Result<UploadSession, PublishError> {
        let request = place.request(Method::POST, "", &[("uploads", "")]).await?;
        let answer = transfer.send(source, &request.header("content-type", "application/octet-stream")).await?;
        let created: Option<CreatedUpload> = Some(&answer).filter(|answer| answer.is_success()).and_then(parsed);
        let Some(CreatedUpload { upload_id }) = created else {
            let url = place.request(Method::POST, "", &[]).await?.url;
            return Err(answer.error(&url, "the beginning of an upload in parts", true));
        };
        let chunk_bytes = self.chunk_bytes.unwrap_or(PART_BYTES).max(source.size.div_ceil(MAX_PARTS));
        let session = UploadSession { upload: upload_id, chunk_bytes };
        self.sessions.store(target, &source.digest, &session);
        Ok(session)
    }

    /// The parts that the bucket has; none if it has forgotten the upload, or does not show it.
    async fn listed(
        &self,
        source: &PublishSource,
        place: &WebPlace,
        transfer: &Transfer,
        session: &UploadSession,
    ) -> Result<Option<Vec<ListedPart>>, PublishError> {
        let (mut parts, mut after) = (Vec::new(), 0);
        loop {
            let marker = after.to_string();
            let query = [("part-number-marker", marker.as_str()), ("uploadId", session.upload.as_str())];
            let request = place.request(Method::GET, "", &query).await?;
            let answer = transfer.send(source, &request).await?;
            if matches!(answer.status, 403 | 404) {
                return Ok(None);
            }
            if !answer.is_success() {
                return Err(answer.error(&request.url, "the list of the parts", true));
            }
            let Some(page) = parsed::<ListedParts>(&answer) else { return Ok(None) };
            parts.extend(page.parts);
            match page.next_part_number_marker.filter(|next| page.is_truncated && *next > after) {
                Some(next) => after = next,
                None => break,
            }
        }
        parts.retain(|part| part.size == part_range(source, session, part.part_number).1);
        Ok(Some(parts))
    }

    async fn send_rest(
        &self,
        source: &PublishSource,
        place: &WebPlace,
        transfer: &Transfer,
        session: &UploadSession,
        known: Vec<ListedPart>,
    ) -> Result<Vec<ListedPart>, PublishError> {
        let mut parts = Vec::new();
        for number in 1..=source.size.div_ceil(session.chunk_bytes) {
            if let Some(part) = known.iter().find(|part| part.part_number == number) {
                parts.push(part.clone());
                continue;
            }
            let (start, size) = part_range(source, session, number);
            let text = number.to_string();
            let query = [("partNumber", text.as_str()), ("uploadId", session.upload.as_str())];
            let request = place.request(Method::PUT, "", &query).await?;
            let answer = transfer.send(source, &request.clone().range(start, size)).await?;
            let tag = answer.header("etag").filter(|_| answer.is_success());
            let Some(tag) = tag else { return Err(answer.error(&request.url, "a part of the upload", true)) };
            parts.push(ListedPart { part_number: number, tag: tag.to_owned(), size });
        }
        Ok(parts)
    }
}

/// The first byte and the length of a part, which is 0 beyond the end.
fn part_range(source: &PublishSource, session: &UploadSession, number: u64) -> (u64, u64) {
    let start = number.saturating_sub(1).saturating_mul(session.chunk_bytes);
    (start, source.size.saturating_sub(start).min(session.chunk_bytes))
}

fn parsed<T: serde::de::DeserializeOwned>(answer: &TransferAnswer) -> Option<T> {
    from_str(&String::from_utf8_lossy(&answer.body)).ok()
}

fn completion(parts: &[ListedPart]) -> String {
    let part = |part: &ListedPart| {
        let tag = part.tag.replace('&', "&amp;").replace('<', "&lt;");
        format!("<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag></Part>", part.part_number)
    };
    let parts: String = parts.iter().map(part).collect();
    format!(
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>"
    )
}

/// S3 begins to answer with 200 before it has completed the upload, and says in the body what went wrong.
fn failed_later(mut answer: TransferAnswer) -> TransferAnswer {
    let text = String::from_utf8_lossy(&answer.body);
    if answer.is_success() && text.contains("<Error>") {
        answer.status = if text.contains("PreconditionFailed") { 412 } else { 500 };
    }
    answer
}
