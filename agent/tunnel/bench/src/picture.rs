//! The picture in README: throughput as bars, in multiples of a baseline's.

use std::fmt::Write as _;

use crate::plan::Measure;
use crate::results::Results;
use crate::rivals::{OURS, VETH};

const GROUPS: [(Measure, &str, &str); 7] = [
    (Measure::Tcp1, "gbit_s", "TCP, one stream"),
    (Measure::Tcp4, "gbit_s", "TCP, four streams"),
    (Measure::Rev, "gbit_s", "TCP, reverse"),
    (Measure::Udp, "mbit_s", "UDP 1200 B, no loss"),
    (Measure::Vxlan, "gbit_s", "TCP in a VXLAN"),
    (Measure::Burst, "mbit_s", "UDP 1200 B, as fast as can be"),
    (Measure::Flows, "gbit_s", "TCP, 64 streams of small writes"),
];

/// The device's name in README.
const PRODUCT: &str = "p2p-agent";

/// Positions, in pixels.
const WIDTH: f64 = 760.0;
const MARGIN: f64 = 20.0;
const BARS_LEFT: f64 = 140.0;
const BARS_RIGHT: f64 = 690.0;
const TOP: f64 = 52.0;
const ROW: f64 = 20.0;
const BAR: f64 = 14.0;
const GROUP_HEAD: f64 = 24.0;
const GROUP_GAP: f64 = 12.0;

/// Colours for light pages, and others where the reader's browser asks for dark ones. The picture has its own background, so that
/// it can be read on any page.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.head{font-weight:600}.small{font-size:12px;fill:#59636e}\
.ground{fill:#fff;stroke:#d1d9e0}.bar{fill:#8c959f}.ours{fill:#0969da}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}.ground{fill:#0d1117;stroke:#3d444d}\
.bar{fill:#656c76}.ours{fill:#4493f8}}";

/// The picture, or `None` where none of its measurements was made together with `baseline`.
pub(crate) fn throughput(results: &Results, names: &[String], baseline: &str, version: &str) -> Option<String> {
    let groups: Vec<Group> =
        GROUPS.into_iter().filter_map(|group| Group::of(results, names, baseline, group)).collect();
    let most = groups.iter().flat_map(|group| &group.bars).map(|(_, ratio)| *ratio).reduce(f64::max)?;
    let scale = (BARS_RIGHT - BARS_LEFT) / most;

    let mut body = String::new();
    let mut y = TOP;
    for group in &groups {
        text(&mut body, "head", MARGIN, y + 14.0, group.title);
        y += GROUP_HEAD;
        for (name, ratio) in &group.bars {
            let (class, label) = if name == OURS { ("ours", PRODUCT) } else { ("bar", name.as_str()) };
            let middle = y + BAR - 3.0;
            text(&mut body, "small", MARGIN, middle, label);
            let width = ratio * scale;
            let _ = writeln!(
                body,
                r#"<rect class="{class}" x="{BARS_LEFT}" y="{y}" width="{width:.1}" height="{BAR}" rx="2"/>"#
            );
            text(&mut body, "small", BARS_LEFT + width + 6.0, middle, &format!("{ratio:.1}x"));
            y += ROW;
        }
        y += GROUP_GAP;
    }
    let height = y + 4.0;
    let title = format!("Throughput in multiples of {baseline} {version}");
    let mut head = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
    );
    let _ = write!(head, "\n<title>{}</title>\n<style>{STYLE}</style>\n", escape(&title));
    let _ = writeln!(
        head,
        r#"<rect class="ground" x="0.5" y="0.5" width="{}" height="{}" rx="6"/>"#,
        WIDTH - 1.0,
        height - 1.0
    );
    text(&mut head, "head", MARGIN, 30.0, &title);
    Some(format!("{head}{body}</svg>\n"))
}

struct Group {
    title: &'static str,
    /// Names and ratios, the highest first.
    bars: Vec<(String, f64)>,
}

impl Group {
    fn of(
        results: &Results,
        names: &[String],
        baseline: &str,
        (measure, key, title): (Measure, &str, &'static str),
    ) -> Option<Self> {
        let ratio = |name: &String| Some((name.clone(), results.ratio(measure, name, baseline, key)?));
        let mut bars: Vec<_> = names.iter().filter(|name| *name != VETH).filter_map(ratio).collect();
        bars.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        (!bars.is_empty()).then_some(Self { title, bars })
    }
}

fn text(svg: &mut String, class: &str, x: f64, y: f64, text: &str) {
    let _ = writeln!(svg, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{}</text>"#, escape(text));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Run;

    fn run(name: &str, gbit: f64) -> Run {
        let values = [("gbit_s", gbit)].into();
        Run { round: 0, measure: Measure::Tcp1, implementation: name.into(), values }
    }

    #[test]
    fn bars_are_as_long_as_their_ratio_and_sorted() {
        let results = Results { runs: vec![run("gotatun", 1.0), run("ours", 5.0), run("veth", 20.0)] };
        let names = ["veth", "gotatun", "ours"].map(str::to_owned);
        let svg = throughput(&results, &names, "gotatun", "1 <2>").unwrap();
        let widths: Vec<&str> = svg.lines().filter_map(|line| line.split_once("width=\"")).map(|(_, w)| w).collect();
        assert!(svg.contains(r#"class="ours" x="140" y="76" width="550.0""#), "{svg}");
        assert!(svg.contains(r#"class="bar" x="140" y="96" width="110.0""#), "{svg}");
        assert!(svg.contains(">5.0x<") && svg.contains("gotatun 1 &lt;2&gt;") && !svg.contains("veth"), "{svg}");
        assert_eq!(widths.len(), 4, "the whole, its ground and two bars");
    }

    #[test]
    fn without_the_baseline_there_is_no_picture() {
        let results = Results { runs: vec![run("ours", 5.0)] };
        assert!(throughput(&results, &["ours".to_owned()], "gotatun", "1").is_none());
    }
}
