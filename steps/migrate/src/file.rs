//! The migrations in a directory: their names, their order, their text.

use pawl_step::Failure;
use pawl_step::fs::{self, FileType};
use sha2::{Digest, Sha256};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Migration {
    /// The number in front of its name; at most what an SQLite integer holds.
    pub(crate) version: i64,
    /// `0002_add_stock.sql`.
    pub(crate) file_name: String,
    /// The text, without byte order mark, with line feeds only.
    pub(crate) sql: String,
    /// `sha256:<hex>` of that text, so that a checkout with other line ends is no change.
    pub(crate) checksum: String,
}

/// The migrations of a directory, by number.
///
/// # Errors
/// A `.sql` file without a number, two with the same, or one that is no text.
pub(crate) fn read(dir: &str) -> Result<Vec<Migration>, Failure> {
    let entries = fs::list(dir)?;
    let names = entries.into_iter().filter(|entry| entry.file_type != FileType::Directory).map(|entry| entry.name);
    let mut migrations = Vec::new();
    for (version, file_name) in ordered(names.collect(), dir)? {
        let text = fs::read_text(&format!("{dir}/{file_name}"))?;
        migrations.push(migration(version, file_name, &text, dir)?);
    }
    Ok(migrations)
}

fn migration(version: i64, file_name: String, text: &str, dir: &str) -> Result<Migration, Failure> {
    let sql = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    if let Some(at) = sql.find('\0') {
        let line = sql[..at].matches('\n').count() + 1;
        return Err(Failure::bad_content("the file has a NUL character, which no SQL text has")
            .hint("save the file as UTF-8 text")
            .detail("file", format!("{dir}/{file_name}"))
            .detail("line", line));
    }
    let checksum =
        Sha256::digest(sql.as_bytes()).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"));
    Ok(Migration { version, file_name, sql, checksum })
}

/// The `.sql` names with their numbers, in order; other names are ignored.
fn ordered(names: Vec<String>, dir: &str) -> Result<Vec<(i64, String)>, Failure> {
    let mut numbered: Vec<(i64, String)> = Vec::new();
    for name in names {
        if !name.to_ascii_lowercase().ends_with(".sql") || name.starts_with('.') {
            continue;
        }
        let version = number(&name).ok_or_else(|| {
            Failure::invalid_config(format!(
                "`{dir}/{name}` has no number that orders it: a migration is named `<number>_<name>.sql`"
            ))
            .hint("rename it, as `0007_orders.sql`; a file that is no migration needs another ending")
            .detail("file", format!("{dir}/{name}"))
        })?;
        numbered.insert(numbered.partition_point(|(other, _)| *other < version), (version, name));
    }
    for pair in numbered.windows(2) {
        if let [(version, one), (other_version, other)] = pair
            && version == other_version
        {
            return Err(Failure::invalid_config(format!(
                "`{one}` and `{other}` in `{dir}` have the same number {version}"
            ))
            .hint("give the one that is applied nowhere yet a higher number")
            .detail("file", format!("{dir}/{other}")));
        }
    }
    Ok(numbered)
}

/// The number of `<number>_<name>.sql`.
fn number(name: &str) -> Option<i64> {
    let (number, rest) = name.split_once('_')?;
    let is_named = rest.strip_suffix(".sql").is_some_and(|name| !name.is_empty());
    (is_named && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
pub(crate) fn sample(version: i64, sql: &str) -> Migration {
    migration(version, format!("{version:04}_x.sql"), sql, "m").unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::Sandbox;
    use pawl_step::{Access, Kind};

    #[test]
    fn names() {
        for (name, expected) in [
            ("1_a.sql", Some(1)),
            ("0007_orders_by_day.sql", Some(7)),
            ("20260102030405_x.sql", Some(20_260_102_030_405)),
            ("_x.sql", None),
            ("1.sql", None),
            ("1_.sql", None),
            ("1_x.SQL", None),
            ("+1_x.sql", None),
            ("v1_x.sql", None),
            ("9223372036854775808_x.sql", None),
        ] {
            assert_eq!(number(name), expected, "{name}");
        }
    }

    #[test]
    fn order_is_by_number_and_other_files_are_ignored() {
        let names = ["10_c.sql", "README.md", "9_b.sql", ".hidden.sql", "1_a.sql"].map(str::to_owned).to_vec();
        let found: Vec<_> = ordered(names, "m").unwrap().into_iter().map(|(version, _)| version).collect();
        assert_eq!(found, [1, 9, 10]);
        let failure = ordered(vec!["1_a.sql".into(), "01_b.sql".into()], "m").unwrap_err();
        assert_eq!(failure.message, "`01_b.sql` and `1_a.sql` in `m` have the same number 1");
        let failure = ordered(vec!["orders.sql".into()], "m").unwrap_err();
        assert_eq!((failure.kind, failure.details["file"].as_str()), (Kind::InvalidConfig, Some("m/orders.sql")));
    }

    #[test]
    fn reads_a_directory() {
        let sandbox = Sandbox::new();
        let folder = sandbox.grant("m", Access::Read);
        std::fs::write(folder.join("2_b.sql"), "\u{feff}select 1;\r\nselect 2;\r\n").unwrap();
        std::fs::write(folder.join("1_a.sql"), "").unwrap();
        std::fs::create_dir(folder.join("old.sql")).unwrap();
        let files = read("m").unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(files[0].checksum, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(files[1].sql, "select 1;\nselect 2;\n");
        assert_eq!(files[1].checksum, sample(2, "select 1;\nselect 2;\n").checksum);

        std::fs::write(folder.join("3_c.sql"), "select\n'\0'").unwrap();
        assert_eq!(read("m").unwrap_err().message, "the file has a NUL character, which no SQL text has");
        std::fs::write(folder.join("3_c.sql"), b"select '\xff'").unwrap();
        assert_eq!(read("m").unwrap_err().message, "`m/3_c.sql` is no UTF-8 text: byte 9 is invalid");
    }
}
