//! Names of users and groups of this machine, and their numbers.
//!
//! `/etc/passwd` and `/etc/group` are read first. What is not in them, such as users of a directory service, is asked of `getent`, which a
//! static binary can call as well: the C library's own look-up loads modules at run time.

use std::{fs, io, process::Command};

/// The kind of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountKind {
    /// A user.
    User,
    /// A group.
    Group,
}

impl AccountKind {
    /// Its word in messages.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
        }
    }

    /// The number of an account, given its name or its number.
    ///
    /// # Errors
    /// There is no such account, or it can't be looked up.
    pub fn number_of(self, account: &str) -> io::Result<u32> {
        if let Ok(number) = account.parse() {
            return Ok(number);
        }
        let found = self.entry(account, |name, _| name == account)?.map(|(_, number)| number);
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no {} `{account}`", self.noun())))
    }

    /// The name of an account; none if the number has no name here.
    #[must_use]
    pub fn name_of(self, number: u32) -> Option<String> {
        self.entry(&number.to_string(), |_, known| known == number).ok()?.map(|(name, _)| name)
    }

    fn entry(self, key: &str, is_meant: impl Fn(&str, u32) -> bool) -> io::Result<Option<(String, u32)>> {
        let (file, database) = match self {
            Self::User => ("/etc/passwd", "passwd"),
            Self::Group => ("/etc/group", "group"),
        };
        let local = fs::read_to_string(file).unwrap_or_default();
        if let Some(found) = find_entry(&local, &is_meant) {
            return Ok(Some(found));
        }
        match Command::new("getent").args([database, key]).output() {
            Ok(output) => Ok(find_entry(&String::from_utf8_lossy(&output.stdout), &is_meant)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The first account of a list in the form `NAME:PASSWORD:NUMBER:…`.
fn find_entry(list: &str, is_meant: impl Fn(&str, u32) -> bool) -> Option<(String, u32)> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        is_meant(name, number).then(|| (name.to_owned(), number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_by_number() {
        assert_eq!(AccountKind::User.number_of("root").unwrap(), 0);
        assert_eq!(AccountKind::Group.number_of("4711").unwrap(), 4711);
        assert_eq!(AccountKind::User.name_of(0).as_deref(), Some("root"));
        assert_eq!(AccountKind::Group.name_of(3_999_999_999), None);
        let missing = AccountKind::Group.number_of("no-such-group").unwrap_err();
        assert_eq!(missing.to_string(), "there is no group `no-such-group`");
    }

    #[test]
    fn lines_that_are_no_accounts_are_passed_over() {
        let list = "# a comment\n\n+::::::\nshop:x:1001:1001::/home/shop:/bin/sh\n";
        assert_eq!(find_entry(list, |name, _| name == "shop"), Some(("shop".to_owned(), 1001)));
        assert_eq!(find_entry(list, |name, _| name == "+"), None);
    }
}
