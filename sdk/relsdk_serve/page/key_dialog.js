// Asks for the server's key; api.js keeps it for the tab.

import { keepKey, keptKey } from "./api.js";
import { open } from "./dialogs.js";
import { byId, say } from "./dom.js";
import { t } from "./i18n.js";

/** Ask until there is a key to try: without one, there is nothing to see. */
export function askForKey() {
  say(byId("key-error"), keptKey() ? t("key.refused") : "");
  const value = byId("key-value");
  value.value = "";
  return new Promise((resolve) => {
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      const key = value.value.trim();
      if (!/^[\x21-\x7e]+$/.test(key)) return say(byId("key-error"), t("key.characters"));
      keepKey(key);
      byId("key").close();
      resolve();
    };
    open(byId("key"));
  });
}
