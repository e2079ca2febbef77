// What a hand does with hits: grade, undo, ask why, turn the page.

import { byId } from "./dom.js";
import { drawLines, hitOf } from "./draw.js";
import { saidOf } from "./grading.js";
import { t } from "./i18n.js";
import { levelWord } from "./level.js";
import { events } from "./look.js";
import { tell } from "./notices.js";
import { configurationOf, grades, page } from "./page.js";
import { conditionOf } from "./state.js";
import { mark } from "./walk.js";

/** Grade the hit of an element; what each configuration says of it is kept with the grade. */
export function grade(element, level) {
  const models = {};
  page.answers.forEach((one, place) => {
    const same = one.result?.hits.find((hit) => hit.id === element.dataset.document);
    const said = same && saidOf(same);
    if (said) models[configurationOf(page.state.sides[place])] = said;
  });
  const label = grades.give(page.state.query, hitOf(element), level, models);
  tell(
    label === null ? t("grade.removed") : t("grade.given", { level: String(label), word: levelWord(label) }),
  );
}

export const undo = () => tell(t(grades.undo() ? "grade.undone" : "grade.nothing"));

/** Show the reasons of a hit, or hide them. */
export function toggleWhy(element) {
  const { side, place, document: id } = element.dataset;
  const button = element.querySelector("[data-does=why]");
  const panel = byId(`why-${side}-${place}`);
  const shows = panel.hidden;
  byId(`answer-${side}`).openWhy(Number(place));
  panel.hidden = !shows;
  button.setAttribute("aria-expanded", String(shows));
  button.firstElementChild.textContent = t(shows ? "why.hide" : "why");
  if (shows) page.opened.add(`${side} ${id}`);
  else page.opened.delete(`${side} ${id}`);
  mark(element);
  drawLines();
}

/** Turn to the next page (1) or the previous one (-1), where there is one. */
export function turn(by) {
  document
    .querySelector(`.pager button[data-does="${by > 0 ? "next" : "previous"}"]:not([disabled])`)
    ?.click();
}

/** A click on one of a hit's buttons. */
export function clicked(event) {
  const button = event.target.closest("button[data-does]");
  const element = event.target.closest(".hit");
  if (!button || !element) return;
  const { does, level, field, value } = button.dataset;
  if (does === "why") toggleWhy(element);
  if (does === "grade") grade(element, Number(level));
  if (does === "only") events.pick(conditionOf(field, JSON.parse(value)));
}
