//! The pages under docs/errors are true: each problem has one, its first plan causes the error, its second plan is valid.

use super::{parse, parse_for, rendered};
use crate::Problem;

macro_rules! pages {
    ($($code:literal),* $(,)?) => {
        &[$(($code, include_str!(concat!("../../../../../docs/errors/", $code, ".md")))),*]
    };
}

const PAGES: &[(&str, &str)] = pages![
    "P0101", "P0102", "P0103", "P0104", "P0105", "P0106", "P0107", "P0108", "P0109", "P0110", "P0111", "P0112",
    "P0113", "P0114", "P0115", "P0116", "P0117", "P0118", "P0120", "P0121", "P0122", "P0123", "P0124",
];

fn plans(page: &str) -> Vec<&str> {
    page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn each_problem_has_a_true_page() {
    let codes: Vec<_> = Problem::ALL.iter().map(|problem| problem.code().0).collect();
    assert_eq!(codes, PAGES.iter().map(|(code, _)| *code).collect::<Vec<_>>());
    for (code, page) in PAGES {
        assert!(page.starts_with(&format!("# {code}: ")), "{code}");
        assert!(page.contains("\n## What to do\n"), "{code}");
        let mut plans = plans(page).into_iter();
        if *code != "P0102"
            && let Some(bad) = plans.next()
        {
            let errors = parse(bad).expect_err(code);
            assert!(errors.errors.iter().any(|error| error.kind.code().0 == *code), "{code}: {}", rendered(&errors));
        }
        for good in plans {
            parse(good).unwrap_or_else(|errors| panic!("{code}: {}", rendered(&errors)));
        }
    }
}

#[test]
fn the_plans_in_the_reference_parse() {
    let plans = plans(include_str!("../../../../../docs/plan.md"));
    assert_eq!(plans.len(), 2);
    parse_for(plans[0], Some("prod")).unwrap();
    super::good(plans[1]);
}
