// Server-sent events from a fetch response: bytes -> text -> lines -> the data of each event.
// EventSource cannot POST, so the page reads the stream itself.

// Returns push(text), which calls onData with the data of every event that `text` completes. A chunk may end anywhere,
// even between the two bytes of a line end. Comments (": keep-alive") and fields other than data are skipped.
export function createEventParser(onData) {
  let line = "";
  let data = [];
  let afterReturn = false;

  function endLine() {
    if (line === "") {
      if (data.length > 0) onData(data.join("\n"));
      data = [];
    } else if (line.startsWith("data:")) {
      data.push(line.slice(line[5] === " " ? 6 : 5));
    }
    line = "";
  }

  return function push(text) {
    let start = 0;
    for (let i = 0; i < text.length; i++) {
      const character = text[i];
      const secondHalf = character === "\n" && afterReturn && i === start;
      afterReturn = character === "\r";
      if (secondHalf) {
        start = i + 1;
      } else if (character === "\n" || character === "\r") {
        line += text.slice(start, i);
        start = i + 1;
        endLine();
      }
    }
    line += text.slice(start);
  };
}

// The data of each event of a ReadableStream of bytes, in order. The decoder keeps characters whole that a network
// packet has cut.
export async function* readEvents(stream) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let ready = [];
  const push = createEventParser((data) => ready.push(data));
  try {
    for (;;) {
      const { value, done } = await reader.read();
      push(done ? decoder.decode() : decoder.decode(value, { stream: true }));
      yield* ready;
      ready = [];
      if (done) return;
    }
  } finally {
    // Leaving early (stop, error) must also close the connection, so that the server cancels the request.
    reader.cancel().catch(() => {});
  }
}
