// The reliability of a configuration's probabilities among the grades: a diagram, and its figures as a table.

import { h, put, radios, svg } from "./dom.js";
import { numeral, percent, t } from "./i18n.js";
import { nameOf } from "./page.js";
import { OUTCOMES, pairsOf, reliabilityCurve } from "./reliability.js";
import { heads, scroller } from "./tables.js";

// Below these, the intervals are as wide as the diagram, or leave out that pairs of one query go together.
const PAIRS = 20;
const QUERIES = 5;

// The diagram in units of its own: the square of both axes, and the words around it.
const LEFT = 38;
const TOP = 22;
const SIDE = 254;
const BOTTOM = TOP + SIDE;
const TICKS = [0, 0.25, 0.5, 0.75, 1];
const x = (probability) => LEFT + probability * SIDE;
const y = (share) => BOTTOM - share * SIDE;

let outcome = "2"; // which probability was last looked at

/** The section of a configuration; with few pairs it says how many it takes. */
export function reliability(entries, configuration) {
  const graded = pairsOf(entries, configuration, outcome);
  const asked = new Set(graded.map((pair) => pair.query)).size;
  const title = h("h3", {}, t("reliability"));
  if (graded.length < PAIRS || asked < QUERIES) {
    const counts = { pairs: PAIRS, queries: QUERIES, graded: graded.length, asked };
    return [
      title,
      h("p", { class: "help" }, t("reliability.few", { configuration: nameOf(configuration), ...counts })),
    ];
  }
  const figure = h("div", { class: "reliability" });
  const show = (chosen) => {
    outcome = chosen;
    const curve = reliabilityCurve(pairsOf(entries, configuration, outcome));
    const about = h("p", { class: "help" }, t("reliability.about"));
    put(figure, h("div", {}, diagram(curve, configuration), about), figures(curve, configuration));
  };
  show(outcome);
  return [
    title,
    h(
      "fieldset",
      { class: "segments fit", onchange: (event) => show(event.target.value) },
      h("legend", { class: "hide" }, t("reliability.outcome")),
      radios(
        "outcome",
        OUTCOMES.map((one) => [one, one === "top" ? t("reliability.top.short") : levels(one)]),
        outcome,
      ),
    ),
    figure,
  ];
}

const levels = (least) => (least === "3" ? "3" : `≥ ${least}`);

/** Which probability it is. */
const probabilityName = () =>
  outcome === "top" ? t("reliability.top") : t("reliability.least", { level: levels(outcome) });

const titleOf = (configuration) =>
  t("reliability.title", { probability: probabilityName(), configuration: nameOf(configuration) });

function diagram(curve, configuration) {
  const most = Math.max(...curve.map((bin) => bin.pairs));
  const text = (across, down, anchor, words, kind = null) =>
    svg("text", { x: across, y: down, "text-anchor": anchor, class: kind }, words);
  const line = (kind, x1, y1, x2, y2) => svg("line", { class: kind, x1, y1, x2, y2 });
  return svg(
    "svg",
    {
      class: "diagram",
      viewBox: `0 0 ${LEFT + SIDE + 8} ${BOTTOM + 52}`,
      role: "img",
      "aria-label": titleOf(configuration),
    },
    TICKS.map((tick) => [
      line("grid", x(0), y(tick), x(1), y(tick)),
      line("grid", x(tick), y(0), x(tick), y(1)),
      text(LEFT - 6, y(tick) + 4, "end", percent(tick)),
      text(x(tick), BOTTOM + 32, tick === 1 ? "end" : "middle", percent(tick)),
    ]).flat(),
    line("diagonal", x(0), y(0), x(1), y(1)),
    curve.map((bin) => line("interval", x(bin.probability), y(bin.low), x(bin.probability), y(bin.high))),
    curve.map((bin) =>
      svg("circle", {
        class: "point",
        cx: x(bin.probability),
        cy: y(bin.share),
        r: 2.5 + 3 * Math.sqrt(bin.pairs / most),
      }),
    ),
    text(LEFT - 6, BOTTOM + 17, "end", t("grades.pairs")),
    curve.map((bin) => text(x(bin.place), BOTTOM + 17, "middle", numeral(bin.pairs, 0), "pairs")),
    text(0, 11, "start", t("reliability.share")),
    text(x(1), BOTTOM + 48, "end", probabilityName()),
  );
}

function figures(curve, configuration) {
  const rows = curve.map((bin) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", class: "number" }, percent(bin.probability)),
      h("td", { class: "number" }, percent(bin.share)),
      h("td", { class: "number" }, `${percent(bin.low)} – ${percent(bin.high)}`),
      h("td", { class: "number" }, numeral(bin.pairs, 0)),
    ),
  );
  const names = ["reliability.probability", "reliability.so", "reliability.interval", "grades.pairs"];
  return scroller(
    titleOf(configuration),
    h("table", {}, heads(...names.map((key) => t(key))), h("tbody", {}, rows)),
  );
}
