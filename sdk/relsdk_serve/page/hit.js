// One hit: what it is, how relevant, where the other configuration has it, and why it is here.

import { h, languageOf, svg } from "./dom.js";
import { fixed, numeral, t } from "./i18n.js";
import { LEVELS, levelChip, levelWord, meter, probabilityBar, probabilityTable } from "./level.js";
import { markedPieces } from "./mark.js";

const SHOWN_FIELDS = 4;

/**
 * Make the element of a hit.
 *
 * about: {side, place, rank, query, order, scored, move, label, open}: side "A" or "B", place in the list from 0,
 * move what compare.js says of it, label the grade by hand.
 */
export function hitItem(hit, about) {
  const id = `hit-${about.side}-${about.place}`;
  const title = hit.title.trim() || t("hit.untitled");
  const article = h(
    "article",
    {
      class: `hit${about.label === null ? "" : " graded"}`,
      id,
      tabindex: -1,
      "aria-label": t("hit.label", { rank: String(about.rank), title }),
      dataset: { side: about.side, place: about.place, document: hit.id },
    },
    h("div", { class: "rank" }, h("span", { class: "place" }, String(about.rank)), moveChip(about)),
    h(
      "div",
      { class: "what" },
      h("h3", { lang: languageOf(title) }, marked(title, about.query)),
      excerpt(hit, about),
      facts(hit, about),
    ),
    h(
      "div",
      { class: "verdict" },
      h("div", { class: "level" }, levelChip(hit), whyButton(about)),
      hit.probabilities ? probabilityBar(hit.probabilities) : null,
      gradeButtons(about),
    ),
    why(hit, about, id),
  );
  return h("li", {}, article);
}

const marked = (text, query) =>
  markedPieces(text, query).map(([piece, is]) => (is ? h("mark", {}, piece) : piece));

function excerpt(hit, about) {
  const text = hit.passage ? hit.passage.text : hit.text;
  if (!text.trim()) return null;
  return h("p", { class: "text", lang: languageOf(text) }, marked(text, about.query));
}

function facts(hit, about) {
  const fields = Object.entries(hit.metadata).filter(([, value]) => isPlain(value));
  const items = fields
    .slice(0, SHOWN_FIELDS)
    .map(([name, value]) =>
      h("span", { class: "fact" }, h("span", { class: "name" }, name), " ", valueText(value)),
    );
  return h(
    "p",
    { class: "facts" },
    h("span", { class: "fact number" }, t("hit.score", { score: fixed(hit.score, 3) })),
    items,
  );
}

const isPlain = (value) => value !== null && (typeof value !== "object" || Array.isArray(value));
const valueText = (value) =>
  Array.isArray(value)
    ? value.map(valueText).join(", ")
    : typeof value === "object"
      ? JSON.stringify(value)
      : String(value);

function moveChip({ move }) {
  if (!move) return null;
  const drawing = { up: "M5 8.5v-7M2 4.5l3-3 3 3", down: "M5 1.5v7M2 5.5l3 3 3-3", same: "M1.5 5h7" }[
    move.kind
  ];
  return h(
    "span",
    { class: `move ${move.kind}`, title: move.label },
    drawing
      ? svg(
          "svg",
          { class: "arrow", viewBox: "0 0 10 10", "aria-hidden": "true" },
          svg("path", { d: drawing }),
        )
      : null,
    h("span", { "aria-hidden": "true" }, move.short),
    h("span", { class: "hide" }, move.label),
  );
}

function gradeButtons(about) {
  const buttons = [...LEVELS].reverse().map((level) =>
    h(
      "button",
      {
        type: "button",
        class: `grade l${level}`,
        "aria-pressed": String(about.label === level),
        "aria-label": t("grade.give", {
          level: String(level),
          word: levelWord(level),
          meaning: t(`level.means.${level}`),
        }),
        title: `${levelWord(level)}: ${t(`level.means.${level}`)}`,
        dataset: { does: "grade", level },
      },
      String(level),
    ),
  );
  return h(
    "div",
    { class: "grading", role: "group", "aria-label": t("grade", { rank: String(about.rank) }) },
    buttons,
  );
}

function whyButton(about) {
  return h(
    "button",
    {
      type: "button",
      class: "link",
      "aria-expanded": String(about.open),
      "aria-controls": `why-${about.side}-${about.place}`,
      dataset: { does: "why" },
    },
    h("span", {}, about.open ? t("why.hide") : t("why")),
    h("span", { class: "hide" }, ` ${t("why.long", { rank: String(about.rank) })}`),
  );
}

/** The reasons; made when they are first opened. */
function why(hit, about, id) {
  const panel = h("div", { class: "why", id: id.replace("hit", "why"), hidden: !about.open });
  if (about.open) fillWhy(panel, hit, about);
  return panel;
}

export function fillWhy(panel, hit, about) {
  if (panel.childElementCount) return;
  panel.append(
    ...[
      hit.probabilities
        ? section(
            t("why.levels"),
            probabilityTable(hit),
            h(
              "p",
              { class: "help" },
              `${t("level.expected")} `,
              h("span", { class: "number" }, fixed(hit.expected_level, 2)),
            ),
          )
        : null,
      section(t("why.signals"), signals(hit, about)),
      section(t("why.document"), documentTable(hit)),
      fullText(hit),
    ].filter(Boolean),
  );
}

const section = (title, ...content) => h("section", {}, h("h4", {}, title), content);

function signals(hit, about) {
  const { signals: one } = hit;
  const cosine = one ? one.cosine : about.order === "cosine" ? hit.score : null;
  const rank = (place) => (place === null ? t("why.notfound") : numeral(place, 0));
  const rows = [
    [t("why.score", { order: t(`order.${about.order}`) }), fixed(hit.score, 4), null],
    cosine === null ? null : [t("why.cosine"), fixed(cosine, 4), cosine],
    one
      ? [
          t("why.bm25"),
          `${fixed(one.bm25, 2)} / ${fixed(one.best_possible, 2)}`,
          one.bm25 / (one.best_possible || 1),
        ]
      : null,
    one ? [t("why.dense"), rank(one.dense_rank), null] : null,
    one ? [t("why.lexical"), rank(one.lexical_rank), null] : null,
  ].filter(Boolean);
  const list = h(
    "dl",
    { class: "signals" },
    rows.map(([name, value, share]) =>
      h(
        "div",
        {},
        h("dt", {}, name),
        h("dd", {}, share === null ? null : meter(share), h("span", { class: "number" }, value)),
      ),
    ),
  );
  const sentence = foundBy(one);
  return [
    sentence ? h("p", { class: "sentence" }, sentence) : null,
    about.order === "scorer" && !about.scored ? h("p", { class: "sentence" }, t("why.unscored")) : null,
    list,
  ];
}

function foundBy(one) {
  if (!one) return null;
  const ranks = { dense: String(one.dense_rank), lexical: String(one.lexical_rank) };
  if (one.dense_rank !== null && one.lexical_rank !== null) return t("why.both", ranks);
  if (one.dense_rank !== null) return t("why.bymeaning", ranks);
  return one.lexical_rank === null ? null : t("why.bywords", ranks);
}

function documentTable(hit) {
  const rows = Object.entries(hit.metadata).map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, values(name, value))),
  );
  return h(
    "dl",
    { class: "metadata" },
    h("div", {}, h("dt", {}, "id"), h("dd", { class: "mono" }, hit.id)),
    rows,
  );
}

/** A value that can be filtered by is a button. */
function values(name, value) {
  if (Array.isArray(value)) return value.map((one) => values(name, one));
  if (value === null || typeof value === "object") return h("span", { class: "mono" }, JSON.stringify(value));
  return h(
    "button",
    {
      type: "button",
      class: "value",
      title: t("why.only", { field: name, value: String(value) }),
      dataset: { does: "only", field: name, value: JSON.stringify(value) },
    },
    String(value),
  );
}

function fullText(hit) {
  if (!hit.text.trim()) return null;
  const title = hit.passage
    ? t("hit.passage", { start: numeral(hit.passage.start, 0), end: numeral(hit.passage.end, 0) })
    : t("hit.text");
  if (!hit.passage) return section(title, h("p", { class: "whole", lang: languageOf(hit.text) }, hit.text));
  const characters = [...hit.text]; // places count characters, not halves of surrogate pairs
  const { start, end } = hit.passage;
  return section(
    title,
    h(
      "p",
      { class: "whole", lang: languageOf(hit.text) },
      characters.slice(0, start).join(""),
      h("span", { class: "passage" }, characters.slice(start, end).join("")),
      characters.slice(end).join(""),
    ),
  );
}
