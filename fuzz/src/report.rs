//! Of the reports, how an error is shown.

#[path = "../../runner/src/report/diagnostic.rs"]
pub mod diagnostic;
