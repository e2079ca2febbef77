// Light, dark, or as the system is; early.js did the first of it before the first paint.

import { t } from "./i18n.js";
import { browser } from "./store.js";

const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const NEXT = { system: "light", light: "dark", dark: "system" };

export function startTheme(button) {
  button.addEventListener("click", () => {
    root.dataset.choice = NEXT[root.dataset.choice];
    browser.set("relsdk.theme", root.dataset.choice);
    apply();
    nameTheme(button);
  });
  system.addEventListener("change", apply);
}

export function nameTheme(button) {
  const name = t(`theme.${root.dataset.choice}`);
  button.setAttribute("aria-label", name);
  button.title = name;
}

function apply() {
  const choice = root.dataset.choice;
  root.dataset.theme = choice === "dark" || (choice === "system" && system.matches) ? "dark" : "light";
}
