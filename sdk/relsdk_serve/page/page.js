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

/** What a configuration is called among the grades. */
export const nameOf = (side) => [side.index, t(`mode.${side.mode}`), side.scorer].filter(Boolean).join(" · ");
