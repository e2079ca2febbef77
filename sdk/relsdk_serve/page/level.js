// A level as a word, and the probabilities of the four as a bar that a screen reader hears as words.

import { h, svg } from "./dom.js";
import { percent, t } from "./i18n.js";

export const LEVELS = [3, 2, 1, 0]; // as they are shown: the best first

export const levelWord = (level) => t(`level.${level}`);

/** The level and how sure it is: "Mostly 64%". */
export function levelChip(graded) {
  if (graded.level === null || graded.level === undefined) {
    return h("span", { class: "chip none", title: t("level.none.why") }, t("level.none"));
  }
  const sure = graded.probabilities
    ? h("span", { class: "sure" }, percent(graded.probabilities[graded.level]))
    : null;
  return h("span", { class: `chip l${graded.level}` }, h("b", {}, levelWord(graded.level)), sure);
}

/** Four probabilities side by side, the best level first. */
export function probabilityBar(probabilities) {
  const parts = LEVELS.map((level) =>
    t("level.part", { level: levelWord(level), percent: percent(probabilities[level]) }),
  );
  const label = t("level.bar", { parts: parts.join(", ") });
  let x = 0;
  const shares = LEVELS.map((level) => {
    const width = probabilities[level] * 100;
    const part = svg("rect", { class: `p${level}`, x, y: 0, width: Math.max(width - 0.8, 0.2), height: 8 });
    x += width;
    return part;
  });
  const picture = {
    class: "bar",
    viewBox: "0 0 100 8",
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  };
  return svg("svg", picture, ...shares);
}

/** One row a level: word, bar, per cent, "at least". */
export function probabilityTable(graded) {
  let atLeast = 0;
  const rows = LEVELS.map((level) => {
    const share = graded.probabilities[level];
    atLeast += share;
    return h(
      "div",
      { class: `share${level === graded.level ? " is" : ""}` },
      h("dt", {}, `${level} ${levelWord(level)}`),
      h("dd", {}, meter(share, `p${level}`), h("span", { class: "number" }, percent(share))),
      h("dd", { class: "least" }, level ? t("why.least", { percent: percent(Math.min(atLeast, 1)) }) : ""),
    );
  });
  return h("dl", { class: "shares" }, rows);
}

/** A bar of one share of 1; the number stands beside it. */
export function meter(share, kind = "") {
  const width = Math.min(Math.max(share, 0), 1) * 100;
  return svg(
    "svg",
    { class: "meter", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "rest", x: 0, y: 0, width: 100, height: 6 }),
    svg("rect", { class: kind || "full", x: 0, y: 0, width, height: 6 }),
  );
}
