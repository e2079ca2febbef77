// Puts the state and the answers onto the page.

import { SIDES, buildColumns, connect, showAnswer, showError } from "./columns.js";
import { difference } from "./compare.js";
import { byId, put } from "./dom.js";
import { showChips, showCount, showFacets } from "./facets.js";
import { isAboutWhere, showFilters } from "./filters.js";
import { numeral, t } from "./i18n.js";
import { messageOf } from "./notices.js";
import { configurationOf, grades, indexOf, page } from "./page.js";
import { showStart } from "./start.js";
import { focusHit, keepPlace } from "./walk.js";

/** Draw what is chosen: configurations, filters, chips. events: see look.js. */
export function drawControls(events) {
  const { state, info } = page;
  const { id, name } = document.activeElement ?? {};
  buildColumns(state, info.indexes, events);
  if (id) byId(id)?.focus();
  else if (name) document.querySelector(`input[name="${CSS.escape(name)}"]:checked`)?.focus();
  showFilters(state, fieldsOf(state));
  showCount(byId("filter-count"), state);
  drawChips(state, events);
  byId("columns").hidden = !state.query;
  byId("rail").hidden = false;
  byId("start").hidden = Boolean(state.query);
  if (!state.query) showStart(byId("start"), info.indexes, events.choose);
}

function drawChips(state, events) {
  const chips = byId("chips");
  const lost = chips.contains(document.activeElement);
  showChips(chips, state.picked, events.pick, events.unpick);
  if (lost) (chips.querySelector("button") ?? byId("query")).focus();
}

/** The fields of the indexes that are searched, each once; an object has no value of its own. */
function fieldsOf(state) {
  const fields = new Map(
    state.sides.flatMap((side) => indexOf(side).fields.map((field) => [field.name, field])),
  );
  return [...fields.values()].filter((field) => field.kinds.some((kind) => kind !== "object"));
}

/** Draw what was answered: after a search, and in another language. */
export function drawAnswers(events) {
  const { state, answers, opened } = page;
  const inside = document.activeElement?.closest?.(".answer");
  answers.forEach((one, place) => {
    if (one.error)
      return showError(
        place,
        isAboutWhere(one.error) ? t("error.where") : messageOf(one.error),
        events.retry,
      );
    const { result, timing } = one;
    const configuration = configurationOf(state.sides[place]);
    result.hits.forEach((hit) => grades.note(state.query, hit, configuration));
    showAnswer(place, {
      state,
      result,
      timing,
      other: answers[1 - place]?.result,
      grades,
      open: opened,
      page: events.page,
    });
  });
  const results = answers.map((one) => one.result);
  const both = results.length === 2 && results.every(Boolean);
  byId("difference").hidden = !both;
  put(byId("difference"), both ? difference(results[0].hits, results[1].hits) : []);
  drawFacets(results, events);
  keepPlace();
  if (inside && !document.activeElement?.closest?.(".answer"))
    focusHit(document.querySelector(".hit[tabindex='0']"));
  drawLines();
}

/** Two sides of one index have the same counts: they are shown once. */
function drawFacets(results, events) {
  const { state } = page;
  const condition = document.activeElement?.dataset?.condition;
  const one = state.sides.every((side) => side.index === state.sides[0].index);
  showFacets(byId("facets"), state.facets, one ? results.slice(0, 1) : results, state.picked, events.pick);
  if (condition)
    [...byId("facets").querySelectorAll("button")]
      .find((button) => button.dataset.condition === condition)
      ?.focus();
}

export const drawLines = () => connect(page.answers.map((one) => one.result));

/** The hit of the answer that an element shows. */
export const hitOf = (element) =>
  page.answers[SIDES.indexOf(element.dataset.side)].result.hits[Number(element.dataset.place)];

/** Show the grades on the hits, and how many there are. */
export function drawGrades() {
  byId("grade-count").textContent = numeral(grades.size, 0);
  for (const element of document.querySelectorAll(".hit")) {
    const label = grades.of(page.state.query, hitOf(element));
    element.classList.toggle("graded", label !== null);
    for (const button of element.querySelectorAll(".grade")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.level) === label));
    }
  }
}
