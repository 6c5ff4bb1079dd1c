// The list of conversations: choose, rename in place, export, delete.
import { byId, element, iconButton } from "./dom.js";

export const titleOf = (conversation) => conversation.title || "New conversation";

// `actions`: choose(id), rename(id, title), save(id), remove(id).
export function createSidebar(actions) {
  const list = byId("conversations");

  function show(conversations, currentId, busyIds) {
    const focused = list.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.id : null;
    // A title that is being edited must not vanish under the reader's hands.
    if (list.querySelector("input")) return;
    list.replaceChildren(
      ...conversations.map((conversation) => {
        return createItem(conversation, conversation.id === currentId, busyIds.has(conversation.id), actions);
      }),
    );
    if (focused) list.querySelector(`[data-id="${focused}"] .choose`)?.focus();
  }

  return { show };
}

function createItem(conversation, current, busy, actions) {
  const { id } = conversation;
  const title = titleOf(conversation);
  const choose = element(
    "button.choose",
    {
      type: "button",
      "aria-current": current ? "true" : null,
      title,
      onclick: () => actions.choose(id),
      ondblclick: () => startRename(item, conversation, actions),
    },
    title,
  );
  const item = element(
    current ? "li.current" : "li",
    { "data-id": id },
    choose,
    busy ? element("span.busy", { role: "img", "aria-label": "Answering" }) : null,
    element(
      "span.item-tools",
      {},
      iconButton("edit", `Rename ${title}`, () => startRename(item, conversation, actions)),
      iconButton("export", `Export ${title}`, () => actions.save(id)),
      iconButton("trash", `Delete ${title}`, () => actions.remove(id)),
    ),
  );
  return item;
}

function startRename(item, conversation, actions) {
  const field = element("input", { type: "text", maxlength: "200", "aria-label": "Title" });
  field.value = titleOf(conversation);
  let done = false;
  const end = (keep) => {
    if (done) return;
    done = true;
    const title = keep ? field.value.trim() : "";
    field.remove();
    actions.rename(conversation.id, title === "" ? conversation.title : title);
  };
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") event.stopPropagation();
    if (event.key === "Enter" || event.key === "Escape") end(event.key === "Enter");
  });
  field.addEventListener("blur", () => end(true));
  item.replaceChildren(field);
  field.select();
}
