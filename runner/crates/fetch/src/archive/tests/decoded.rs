//! A tar that stands for its archive.

use super::*;

fn decoded(name: &str, archive: &[u8]) -> (DecodedArchive, Vec<u8>) {
    let limits = ArchiveLimits { max_ratio: 100_000, ..ArchiveLimits::default() };
    let (expected, stop) = (digest(archive).unwrap(), AtomicBool::new(false));
    let job = UnpackJob { name, expected: &expected, decoded: None, limits: &limits, stop: &stop, progress: &|_| {} };
    let mut tar = Vec::new();
    let (decoded, _) = decode_tar(archive, &job, |plain| plain.read_to_end(&mut tar)).unwrap().unwrap();
    (decoded, tar)
}

/// The error of a tar that is extracted for an archive of this digest.
fn error_of(
    (decoded, tar): (&DecodedArchive, &[u8]),
    name: &str,
    expected: &Digest,
    limits: &ArchiveLimits,
) -> ArchiveError {
    let (room, stop) = (ArchiveTestDir::new(), AtomicBool::new(false));
    let job = UnpackJob { name, expected, decoded: Some(decoded), limits, stop: &stop, progress: &|_| {} };
    let error = unpack(tar, &job, &room.dir, "new").unwrap_err();
    room.assert_untouched();
    error
}

#[test]
fn only_the_tar_of_the_archive_stands_for_it() {
    let archive = gzip(&TestTarBuilder::new().file("a", "one").finish());
    let (decoded, tar) = decoded("a.tar.gz", &archive);
    let (expected, limits) = (digest(archive.as_slice()).unwrap(), ArchiveLimits::default());
    let other = digest(&b"other"[..]).unwrap();
    let error = error_of((&decoded, &tar), "a.tar.gz", &other, &limits);
    assert!(matches!(error, ArchiveError::WrongDigest { .. }), "{error}");
    let mut changed = tar.clone();
    changed[512] = b'O';
    let error = error_of((&decoded, &changed), "a.tar.gz", &expected, &limits);
    assert!(matches!(error, ArchiveError::Damaged(_)), "{error}");
    let error = error_of((&decoded, &tar), "a.zip", &expected, &limits);
    assert!(matches!(error, ArchiveError::UnknownFormat { .. }), "{error}");
}

/// The limits are those of the archive: its own size, and how much it was compressed, also at its beginning.
#[test]
fn limits_are_those_of_the_archive() {
    let noise: String =
        (0..4_000_000_u32).map(|n| char::from(b' ' + (n.wrapping_mul(2_654_435_761) >> 27) as u8)).collect();
    let tar = TestTarBuilder::new().file("zeros", &"0".repeat(3 << 20)).file("noise", &noise).finish();
    let archive = zstd(&tar);
    let (decoded, decoded_tar) = decoded("a.tar.zst", &archive);
    assert_eq!(decoded_tar, tar);
    assert!(decoded.ratio > 5 * (tar.len() / archive.len()) as u64, "{}", decoded.ratio);
    let expected = digest(archive.as_slice()).unwrap();
    let strict = ArchiveLimits { max_ratio: decoded.ratio - 1, ..ArchiveLimits::default() };
    for error in
        [error_of((&decoded, &tar), "a.tar.zst", &expected, &strict), failure_within("a.tar.zst", &archive, &strict)]
    {
        assert!(matches!(error, ArchiveError::Limit { limit: ArchiveLimitKind::Ratio, .. }), "{error}");
    }
    let small = ArchiveLimits { max_bytes: archive.len() as u64 - 1, ..ArchiveLimits::default() };
    let error = error_of((&decoded, &tar), "a.tar.zst", &expected, &small);
    assert!(matches!(error, ArchiveError::Limit { limit: ArchiveLimitKind::Bytes, .. }), "{error}");
}
