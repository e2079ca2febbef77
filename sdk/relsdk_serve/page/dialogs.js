// Dialogs: closed by their button, by Escape, or by a click beside them.

export function open(dialog) {
  if (!dialog.open) dialog.showModal();
}

export function closable(...dialogs) {
  for (const dialog of dialogs) {
    dialog.querySelector("form[data-close]").addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close();
    });
    dialog.addEventListener("click", (event) => {
      const box = dialog.getBoundingClientRect();
      const inside =
        event.clientX >= box.left &&
        event.clientX <= box.right &&
        event.clientY >= box.top &&
        event.clientY <= box.bottom;
      if (event.target === dialog && !inside) dialog.close();
    });
  }
}
