//! The table for people, on stderr.
//!
//! Must never round a miss into a hit: the word at the end of a line comes from the figure, not from what is printed.

use crate::row::{Figure, ROWS, Row};

/// Prints every row's name, unit and target.
pub(crate) fn list() {
    for row in ROWS {
        println!("{:34} {:10} {}", row.name, row.unit, row.wish());
    }
}

/// Prints the table; tells whether no row is absent and none misses its target.
pub(crate) fn show(rows: &[&Row], figures: &[Figure]) -> bool {
    let mut well = true;
    eprintln!("{:32} {:>9} {:10} {:>9} {:>7} {:>9}", "row", "value", "unit", "limit", "ratio", "target");
    for row in rows {
        let Some(figure) = figures.iter().find(|figure| figure.name == row.name) else {
            eprintln!("{:32} {:>9} {:10} {:>9} {:>7} {:>9} absent", row.name, "-", row.unit, "-", "-", row.wish());
            well = false;
            continue;
        };
        let reached = row.is_reached_by(figure);
        well &= reached;
        let (value, limit, ratio) = (short(Some(figure.value)), short(figure.limit), short(figure.ratio));
        let word = match (row.wish().as_str(), reached) {
            ("-", _) => "",
            (_, true) => "ok",
            (_, false) => "MISSED",
        };
        eprintln!("{:32} {value:>9} {:10} {limit:>9} {ratio:>7} {:>9} {word}", row.name, row.unit, row.wish());
    }
    for figure in figures {
        eprintln!("  {}: {}", figure.name, figure.note);
    }
    well
}

fn short(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}
