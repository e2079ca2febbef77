// Starts the page: asks what the server has, and connects controls, keys and dialogs.

import { ask } from "./api.js";
import { closable, open } from "./dialogs.js";
import { byId } from "./dom.js";
import { drawAnswers, drawControls, drawGrades, drawLines } from "./draw.js";
import { startFilters } from "./filters.js";
import { showGrades, startGrades } from "./grades_view.js";
import { clicked, grade, toggleWhy, turn, undo } from "./hand.js";
import { switchLanguage, translate } from "./i18n.js";
import { askForKey } from "./key_dialog.js";
import { nameKeys, startKeys } from "./keys.js";
import { events, go, restore } from "./look.js";
import { busy, messageOf, notice, onWait, tell } from "./notices.js";
import { grades, page } from "./page.js";
import { showPair } from "./pair.js";
import { writeState } from "./state.js";
import { nameTheme, startTheme } from "./theme.js";
import { current, mark, unpair } from "./walk.js";

const searches = () => page.info !== null && page.info.indexes.length > 0;

async function load() {
  busy(true);
  try {
    page.info = (await ask("info", { onWait })).data.relsdk;
    notice("");
  } catch (error) {
    if (error.status === undefined) throw error; // a mistake of ours
    if (error.status === 401) return askForKey().then(load);
    return notice(messageOf(error), load);
  } finally {
    busy(false);
  }
  byId("search").hidden = !searches();
  byId("open-grades").hidden = !searches();
  if (!searches()) return pairPanel();
  if (matchMedia("(pointer: fine)").matches && location.hash.length < 2) byId("query").focus();
  return restore();
}

/** Without an index there is nothing to search: pairs are graded. */
function pairPanel() {
  byId("start").hidden = false;
  showPair(byId("start"), page.info.models, {
    busy,
    waits: onWait,
    done: (message) => {
      notice("");
      tell(message);
    },
    failed: (error, again) => {
      if (error.status === undefined) throw error; // a mistake of ours
      return error.status === 401 ? askForKey().then(again) : notice(messageOf(error));
    },
  });
}

/** Write everything in the language that is chosen. */
function speak() {
  translate();
  nameKeys();
  nameTheme(byId("theme"));
  drawGrades();
  if (page.info === null) return;
  if (!searches()) return pairPanel();
  drawControls(events);
  drawAnswers(events);
}

function startHeader() {
  const openGrades = () => {
    showGrades(grades);
    open(byId("grades"));
  };
  const openKeys = () => open(byId("keys"));
  byId("open-keys").addEventListener("click", openKeys);
  byId("open-grades").addEventListener("click", openGrades);
  byId("language").addEventListener("click", () => {
    switchLanguage();
    speak();
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address's "#" is the state
    byId("work").focus();
  });
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    go({ query: byId("query").value.trim() });
  });
  startTheme(byId("theme"));
  const compare = () => searches() && events.compare();
  startKeys({
    grade,
    undo,
    why: toggleWhy,
    page: turn,
    compare,
    grades: () => searches() && openGrades(),
    help: openKeys,
  });
}

function startHits() {
  const columns = byId("columns");
  columns.addEventListener("click", clicked);
  columns.addEventListener("focusin", () => mark(current()));
  columns.addEventListener("focusout", unpair);
  new ResizeObserver(drawLines).observe(columns);
}

function start() {
  closable(byId("keys"), byId("grades"));
  byId("key").addEventListener("cancel", (event) => event.preventDefault());
  startHeader();
  startHits();
  startFilters(go);
  startGrades(grades);
  grades.listeners.push(drawGrades);
  addEventListener("popstate", () => searches() && location.hash !== writeState(page.state) && restore());
  speak();
  load();
}

start();
