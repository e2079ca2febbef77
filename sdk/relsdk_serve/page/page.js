// What the modules of the page share: what is looked at, and what the server answered.

import { t } from "./i18n.js";
import { Grades } from "./grading.js";
import { EMPTY } from "./state.js";

export const page = {
  info: null, // what the server tells of itself
  state: EMPTY,
  answers: [], // one a side: {result, timing} or {error}
  opened: new Set(), // hits whose reasons are shown: "A v1"
};

export const grades = new Grades();

export const indexOf = (side) => page.info.indexes.find((index) => index.name === side.index);

/** A configuration as it is noted with the grades: the same in each language. */
export const configurationOf = ({ index, mode, scorer }) => JSON.stringify([index, mode, scorer]);

/** What a noted configuration is called. */
export function nameOf(configuration) {
  const [index, mode, scorer] = JSON.parse(configuration);
  return [index, t(`mode.${mode}`), scorer].filter(Boolean).join(" · ");
}
