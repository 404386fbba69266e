//! Charts as SVG: bars by contestant, and lines over sizes or connections. Plain elements, no
//! script; every text is escaped here.

use std::fmt::{self, Write as _};

use crate::statistics::Spread;

const WIDTH: f64 = 760.0;
const FONT: f64 = 12.0;

/// One colour for each contestant in its order; distinct in luminance as well as in hue.
const COLOURS: [&str; 12] = [
    "#6b7280", "#2563eb", "#059669", "#84cc16", "#9333ea", "#c2410c", "#dc2626", "#f59e0b",
    "#0891b2", "#be185d", "#78350f", "#111827",
];

/// Text that may stand in an element or in a quoted attribute.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // No control character but these may stand in XML, escaped or not.
                control if control.is_control() && !matches!(control, '\n' | '\t') => {
                    f.write_char('\u{fffd}')?;
                }
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Who has which colour, the same in every chart of a report.
pub(super) struct Colours<'a>(pub(super) Vec<&'a str>);

impl Colours<'_> {
    fn of(&self, contestant: &str) -> &'static str {
        let place = self.0.iter().position(|known| *known == contestant).unwrap_or(0);
        COLOURS[place % COLOURS.len()]
    }
}

/// A bar, or what stands in its place.
pub(super) struct Bar<'a> {
    pub(super) contestant: &'a str,
    pub(super) value: Result<Spread, String>,
}

/// Bars from the left, each with its median and a whisker from least to greatest; empty if there
/// is nothing to draw.
pub(super) fn bars(title: &str, bars: &[Bar<'_>], colours: &Colours<'_>) -> String {
    const LEFT: f64 = 170.0;
    const RIGHT: f64 = 90.0;
    const TOP: f64 = 28.0;
    const ROW: f64 = 24.0;
    let greatest = bars.iter().filter_map(|bar| Some(bar.value.as_ref().ok()?.greatest));
    let Some(greatest) = greatest.max_by(f64::total_cmp) else { return String::new() };
    let axis = Axis::linear(greatest);
    let place = |value: f64| LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT);
    let height = TOP + ROW * bars.len() as f64 + 22.0;
    let mut svg = open(title, height);
    for tick in axis.ticks() {
        let x = place(tick);
        line(&mut svg, (x, TOP - 4.0), (x, height - 20.0), "#e5e7eb", 1.0);
        text(&mut svg, (x, height - 6.0), "middle", &short(tick));
    }
    for (index, Bar { contestant, value }) in bars.iter().enumerate() {
        let middle = TOP + ROW * (index as f64 + 0.5);
        text(&mut svg, (LEFT - 8.0, middle + 4.0), "end", contestant);
        match value {
            Err(reason) => text(&mut svg, (LEFT + 4.0, middle + 4.0), "start", reason),
            Ok(Spread { median, least, greatest }) => {
                let _ = write!(
                    svg,
                    r#"<rect class="bar" x="{LEFT:.1}" y="{:.1}" width="{:.1}" height="16" fill="{}"/>"#,
                    middle - 8.0,
                    (place(*median) - LEFT).max(0.0),
                    colours.of(contestant)
                );
                whisker(&mut svg, [(place(*least), middle), (place(*greatest), middle)]);
                text(&mut svg, (place(*greatest) + 6.0, middle + 4.0), "start", &short(*median));
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// One contestant over the places of the horizontal axis; `None` where it has no figure.
pub(super) struct Line<'a> {
    pub(super) contestant: &'a str,
    pub(super) points: Vec<Option<Spread>>,
}

/// Lines over `places`, which stand at equal distances; empty if there is nothing to draw. Values
/// that differ by more than a decade and a half get a logarithmic axis.
pub(super) fn lines(
    title: &str,
    places: &[&str],
    lines: &[Line<'_>],
    colours: &Colours<'_>,
) -> String {
    const LEFT: f64 = 64.0;
    const RIGHT: f64 = 190.0;
    const TOP: f64 = 28.0;
    const HEIGHT: f64 = 320.0;
    const BOTTOM: f64 = HEIGHT - 28.0;
    let values = || lines.iter().flat_map(|line| line.points.iter().flatten());
    let least = values().map(|spread| spread.least).min_by(f64::total_cmp);
    let greatest = values().map(|spread| spread.greatest).max_by(f64::total_cmp);
    let (Some(least), Some(greatest)) = (least, greatest) else { return String::new() };
    let axis = Axis::for_range(least, greatest);
    let note = if matches!(axis, Axis::Logarithmic { .. }) { " (logarithmic)" } else { "" };
    let mut svg = open(&format!("{title}{note}"), HEIGHT);
    let y = |value: f64| BOTTOM - axis.place(value) * (BOTTOM - TOP);
    let step = (WIDTH - LEFT - RIGHT) / places.len().max(1) as f64;
    let x = |index: usize| LEFT + step * (index as f64 + 0.5);
    for tick in axis.ticks() {
        line(&mut svg, (LEFT, y(tick)), (WIDTH - RIGHT, y(tick)), "#e5e7eb", 1.0);
        text(&mut svg, (LEFT - 6.0, y(tick) + 4.0), "end", &short(tick));
    }
    for (index, place) in places.iter().enumerate() {
        text(&mut svg, (x(index), HEIGHT - 8.0), "middle", place);
    }
    for (index, Line { contestant, points }) in lines.iter().enumerate() {
        let colour = colours.of(contestant);
        let known = points.iter().enumerate();
        let known: Vec<(usize, Spread)> =
            known.filter_map(|(index, spread)| Some((index, (*spread)?))).collect();
        for pair in known.windows(2) {
            let [(from, start), (to, end)] = pair else { continue };
            // A place without a figure is a gap, not a straight line across it.
            if to - from == 1 {
                line(&mut svg, (x(*from), y(start.median)), (x(*to), y(end.median)), colour, 2.0);
            }
        }
        for (index, spread) in known {
            whisker(&mut svg, [(x(index), y(spread.least)), (x(index), y(spread.greatest))]);
            let _ = write!(
                svg,
                r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#,
                x(index),
                y(spread.median)
            );
        }
        let legend = TOP + 16.0 * index as f64;
        let _ = write!(
            svg,
            r#"<rect x="{:.1}" y="{legend:.1}" width="10" height="10" fill="{colour}"/>"#,
            WIDTH - RIGHT + 14.0
        );
        text(&mut svg, (WIDTH - RIGHT + 30.0, legend + 9.0), "start", contestant);
    }
    svg.push_str("</svg>\n");
    svg
}

/// From a value to its place between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Axis {
    /// From 0, with a line at each multiple of the step.
    Linear { step: f64, end: f64 },
    /// From one power of ten to another.
    Logarithmic { first: i32, last: i32 },
}

impl Axis {
    fn linear(greatest: f64) -> Self {
        let greatest = if greatest > 0.0 && greatest.is_finite() { greatest } else { 1.0 };
        // The least of 1, 2, 5 times a power of ten that makes at most six steps.
        let rough = greatest / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(10.0 * power);
        Self::Linear { step, end: (greatest / step).ceil() * step }
    }

    fn for_range(least: f64, greatest: f64) -> Self {
        const LINEAR_MAX: f64 = 30.0;
        if least <= 0.0 || greatest / least <= LINEAR_MAX {
            return Self::linear(greatest);
        }
        Self::Logarithmic {
            first: least.log10().floor() as i32,
            last: greatest.log10().ceil() as i32,
        }
    }

    fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear { end, .. } => value / end,
            Self::Logarithmic { first, last } => {
                (value.log10() - f64::from(first)) / f64::from((last - first).max(1))
            }
        };
        place.clamp(0.0, 1.0)
    }

    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { step, end } => {
                let count = (end / step).round() as u32;
                (0..=count).map(|index| f64::from(index) * step).collect()
            }
            Self::Logarithmic { first, last } => {
                (first..=last).map(|power| 10f64.powi(power)).collect()
            }
        }
    }
}

fn open(title: &str, height: f64) -> String {
    let title = Escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" font-size=\"{FONT}\"><title>{title}</title>\
         <text x=\"0\" y=\"14\" font-weight=\"bold\">{title}</text>"
    )
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
    let _ = write!(
        svg,
        r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}" stroke-width="{width}"/>"#,
        from.0, from.1, to.0, to.1
    );
}

/// From the least to the greatest value, with a cap across each end.
fn whisker(svg: &mut String, [least, greatest]: [(f64, f64); 2]) {
    const CAP: f64 = 3.0;
    let is_level = (least.1 - greatest.1).abs() < f64::EPSILON;
    let across = if is_level { (0.0, CAP) } else { (CAP, 0.0) };
    line(svg, least, greatest, "#111827", 1.0);
    for (x, y) in [least, greatest] {
        let (from, to) = ((x - across.0, y - across.1), (x + across.0, y + across.1));
        line(svg, from, to, "#111827", 1.0);
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, content: &str) {
    let content = Escaped(content);
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{content}</text>"#);
}

/// A number in a few characters.
fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let number = format!("{scaled:.digits$}");
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        &number
    };
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests;
