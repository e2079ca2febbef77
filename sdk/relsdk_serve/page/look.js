// Looks at something else: changes the state, the address with it, and asks the server.

import { ask } from "./api.js";
import { announcement, showBusy } from "./columns.js";
import { byId } from "./dom.js";
import { drawAnswers, drawControls } from "./draw.js";
import { showFilterError } from "./filters.js";
import { t } from "./i18n.js";
import { askForKey } from "./key_dialog.js";
import { busy, messageOf, notice, onWait, tell } from "./notices.js";
import { indexOf, page } from "./page.js";
import { readState, searchBody, settle, writeState } from "./state.js";

let running = null;

/** What the controls and the hits ask for. */
export const events = {
  configure(place, patch) {
    const changed = page.state.sides.map((side, at) => (at === place ? { ...side, ...patch } : side));
    return go({ sides: settle(changed, page.info.indexes, []) });
  },
  /** A second configuration beside the first; with two, only the first. */
  compare() {
    if (!page.info?.indexes.length || !page.state.query) return null;
    if (page.state.sides.length === 2) return events.close(1);
    const [first] = page.state.sides;
    const other = indexOf(first).modes.find((mode) => mode !== first.mode);
    return go({ sides: [first, { ...first, mode: other ?? first.mode }], offset: page.state.offset });
  },
  close(place) {
    go({ sides: page.state.sides.filter((_, at) => at !== place), offset: page.state.offset });
    byId("compare")?.focus();
  },
  choose(name) {
    go({ sides: settle([{ index: name, mode: "", scorer: "" }], page.info.indexes, []) });
    byId("query").focus();
  },
  /** A condition that is clicked holds; clicked again, it does not. */
  pick(condition) {
    const { picked } = page.state;
    return go({
      picked: picked.includes(condition) ? picked.filter((one) => one !== condition) : [...picked, condition],
    });
  },
  unpick: () => go({ picked: [] }),
  page: (offset) => go({ offset }).then(() => scrollTo({ top: 0 })),
  retry: () => search(),
};

/** Look at something else, from its first page unless `change` says which. */
export function go(change) {
  page.state = { ...page.state, offset: 0, ...change };
  const address = writeState(page.state);
  if (address !== location.hash) history.pushState(null, "", address);
  return show();
}

/** Look at what the address says. */
export function restore() {
  const unknown = [];
  const state = readState(location.hash);
  page.state = { ...state, sides: settle(state.sides, page.info.indexes, unknown) };
  return show(unknown.length ? t("error.unknown", { names: unknown.join(", ") }) : "");
}

function show(remark = "") {
  document.title = page.state.query ? `${page.state.query} · relsdk` : "relsdk";
  byId("query").value = page.state.query;
  drawControls(events);
  return search(remark);
}

async function search(remark = "") {
  running?.abort();
  const { signal } = (running = new AbortController());
  showFilterError(null);
  notice(remark);
  const sides = page.state.query ? page.state.sides : [];
  busy(sides.length > 0);
  sides.forEach((_, place) => showBusy(place));
  const found = await Promise.all(sides.map((side) => searchSide(side, signal)));
  if (signal.aborted) return null;
  if (found.some((one) => one.error?.status === 401)) return askForKey().then(() => search(remark));
  notice(remark);
  return finish(found);
}

async function searchSide(side, signal) {
  try {
    const { data, timing } = await ask("v1/search", { body: searchBody(page.state, side), signal, onWait });
    return { result: data.results[0], timing };
  } catch (error) {
    if (error.name !== "AbortError" && error.status === undefined) throw error; // a mistake of ours
    return { error };
  }
}

function finish(found) {
  page.answers = found;
  busy(false);
  showFilterError(found.find((one) => one.error)?.error);
  drawAnswers(events);
  tell(
    found
      .map((one, place) => (one.error ? messageOf(one.error) : announcement(place, one.result, one.timing)))
      .join(" "),
  );
}
