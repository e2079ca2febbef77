// The columns of hits, one a configuration: what is asked there, how long it took, and what came back.

import { byId, choice, h, put, radios } from "./dom.js";
import { drawLines, moves } from "./compare.js";
import { fillWhy, hitItem } from "./hit.js";
import { milliseconds, numeral, percent, t } from "./i18n.js";
import { latencyBar } from "./latency.js";
import { levelWord } from "./level.js";

export const SIDES = ["A", "B"];

/**
 * Make the columns anew: once for each number of sides and each language.
 *
 * events: {configure(place, patch), compare(), close(place), page(offset), retry()}.
 */
export function buildColumns(state, indexes, events) {
  const two = state.sides.length === 2;
  const columns = state.sides.map((side, place) => column(side, place, two, indexes, events));
  const element = byId("columns");
  element.className = `columns${two ? " two" : ""}`;
  element.dataset.shown = element.dataset.shown ?? "A";
  if (!two) element.dataset.shown = "A";
  const lines = h("div", { class: "gutter", "aria-hidden": "true" });
  lines.append(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
  put(element, two ? [switcher(element), columns[0], lines, columns[1]] : columns);
  element.hidden = false;
}

/** On a narrow window one column is shown at a time. */
function switcher(element) {
  return h(
    "fieldset",
    { class: "segments shown-side", onchange: (event) => (element.dataset.shown = event.target.value) },
    h("legend", { class: "hide" }, t("side.choose")),
    radios(
      "shown",
      SIDES.map((side) => [side, t("side", { side })]),
      element.dataset.shown,
    ),
  );
}

function column(side, place, two, indexes, events) {
  const name = SIDES[place];
  const index = indexes.find((one) => one.name === side.index);
  const configure = (patch) => events.configure(place, patch);
  return h(
    "section",
    {
      class: "column",
      id: `column-${name}`,
      "aria-label": t("side", { side: name }),
      dataset: { side: name },
    },
    h("h2", { class: "hide" }, t("side", { side: name })),
    h(
      "div",
      { class: "head" },
      h(
        "div",
        { class: "configuration" },
        two ? h("span", { class: "letter", "aria-hidden": "true" }, name) : null,
        choice(
          `index-${name}`,
          t("side.index"),
          indexes.map((one) => [one.name, one.name]),
          side.index,
          (value) => configure({ index: value }),
        ),
        modes(name, index, side, configure),
        index.scorers.length
          ? choice(
              `scorer-${name}`,
              t("side.scorer"),
              [["", t("side.noscorer")], ...index.scorers.map((one) => [one, one])],
              side.scorer,
              (value) => configure({ scorer: value }),
            )
          : null,
        h("span", { class: "gap" }),
        two
          ? h(
              "button",
              {
                type: "button",
                class: "quiet square",
                id: `close-${name}`,
                "aria-label": t("side.remove", { side: name }),
                title: t("side.remove", { side: name }),
                onclick: () => events.close(place),
              },
              "×",
            )
          : h(
              "button",
              {
                type: "button",
                class: "plain",
                id: "compare",
                title: t("side.add.long"),
                onclick: events.compare,
              },
              t("side.add"),
            ),
      ),
    ),
    h("div", { class: "answer", id: `answer-${name}` }),
  );
}

function modes(name, index, side, configure) {
  return h(
    "fieldset",
    { class: "segments", onchange: (event) => configure({ mode: event.target.value }) },
    h("legend", { class: "hide" }, t("side.mode")),
    radios(
      `mode-${name}`,
      ["dense", "lexical", "hybrid"].map((mode) => [mode, t(`mode.${mode}`), !index.modes.includes(mode)]),
      side.mode,
    ),
  );
}

/** Show that a side is being searched: what was there stays, dimmed. */
export function showBusy(place) {
  const answer = byId(`answer-${SIDES[place]}`);
  answer.setAttribute("aria-busy", "true");
  if (answer.childElementCount) return;
  put(
    answer,
    h("p", { class: "hide" }, t("hits.searching")),
    h(
      "div",
      { class: "skeletons", "aria-hidden": "true" },
      [1, 2, 3, 4].map(() => h("div", { class: "skeleton" }, h("i"), h("i"), h("i"))),
    ),
  );
}

/** Show what went wrong on one side. */
export function showError(place, message, retry) {
  const answer = byId(`answer-${SIDES[place]}`);
  answer.removeAttribute("aria-busy");
  put(
    answer,
    h(
      "div",
      { class: "empty failed" },
      h("p", {}, message),
      h("button", { type: "button", class: "plain", onclick: retry }, t("error.again")),
    ),
  );
}

/** Show the answer of one side. context: {state, result, timing, other, grades, open, page}. */
export function showAnswer(place, context) {
  const { state, result, timing, other, grades, open, page } = context;
  const name = SIDES[place];
  const answer = byId(`answer-${name}`);
  answer.removeAttribute("aria-busy");
  const found = other ? moves(result.hits, other.hits, SIDES[1 - place]) : [];
  const abouts = result.hits.map((hit, at) => ({
    side: name,
    place: at,
    rank: state.offset + at + 1,
    query: state.query,
    order: result.order,
    scored: at < result.scored_hits,
    move: found[at] ?? null,
    label: grades.of(state.query, hit),
    open: open.has(`${name} ${hit.id}`),
  }));
  const items = result.hits.map((hit, at) => hitItem(hit, abouts[at]));
  put(
    answer,
    latencyBar(result, timing),
    summary(state, result),
    result.outside.length ? outside(result.outside) : null,
    items.length
      ? h(
          "ol",
          { class: "hits", "aria-label": t("hits.list", { side: name }), start: state.offset + 1 },
          items,
        )
      : nothing(state, result),
    pager(name, state, result, page),
  );
  answer.openWhy = (at) => fillWhy(byId(`why-${name}-${at}`), result.hits[at], abouts[at]);
}

function summary(state, result) {
  const count = result.hits.length;
  const range =
    state.offset && count
      ? t("hits.range", { first: state.offset + 1, last: state.offset + count })
      : t("hits.summary", { n: count });
  const skipped = result.skipped
    ? t("hits.skipped", { skipped: result.skipped, candidates: result.candidates })
    : null;
  const parts = [
    // A vector store does not count what a filter leaves.
    result.matching === null ? null : t("hits.matching", { n: result.matching }),
    t("hits.order", { order: t(`order.${result.order}`) }),
    skipped,
  ];
  return h(
    "p",
    { class: "summary" },
    h("b", {}, range),
    parts.filter(Boolean).map((part) => h("span", {}, part)),
    result.nothing_relevant >= 0.5
      ? h("span", { class: "doubt" }, t("hits.irrelevant", { percent: percent(result.nothing_relevant) }))
      : null,
  );
}

/** In what the query is unlike those of the calibration, in the server's own words. */
const outside = (told) =>
  h("p", { class: "help outside" }, t("hits.outside"), " ", h("span", { lang: "en" }, told.join("; ")));

function nothing(state, result) {
  return h(
    "div",
    { class: "empty" },
    h("p", { class: "big" }, t("hits.none")),
    state.offset ? h("p", {}, t("hits.none.offset")) : null,
    state.offset || result.matching === null
      ? null
      : h("p", {}, t("hits.none.filter", { n: result.matching })),
    state.minLevel ? h("p", {}, t("hits.none.level", { level: levelWord(state.minLevel) })) : null,
  );
}

function pager(side, state, result, page) {
  const more = result.hits.length === state.k;
  if (!state.offset && !more) return null;
  const to = (offset, key, does, enabled) =>
    h(
      "button",
      {
        type: "button",
        class: "plain",
        dataset: { does },
        ...(enabled ? {} : { disabled: true }),
        onclick: () => page(offset),
      },
      t(key),
    );
  return h(
    "nav",
    { class: "pager", "aria-label": t("pages", { side }) },
    to(Math.max(state.offset - state.k, 0), "pages.previous", "previous", state.offset > 0),
    h("span", { class: "number" }, numeral(Math.floor(state.offset / state.k) + 1, 0)),
    to(state.offset + state.k, "pages.next", "next", more),
  );
}

/** Draw the lines between two columns that both have hits. */
export function connect(answers) {
  const picture = document.querySelector(".gutter svg");
  if (!picture) return;
  if (answers.length < 2 || !answers.every((answer) => answer?.hits)) picture.replaceChildren();
  else drawLines(picture, answers[0].hits, moves(answers[0].hits, answers[1].hits, "B"));
}

export const announcement = (place, result, timing) =>
  t("hits.found", { side: SIDES[place], n: result.hits.length, ms: milliseconds(timing.total) });
