// The browser's half of ResumableConsumer and EventStreamResponse(frames=True); docs/reference/protocol.rst has the frames.

const VERSION = 1, FIRST = 2_000, LONGEST = 30_000, IDLE = 25_000, PATIENCE = 10_000; // milliseconds

// A random part of a window that doubles with each failure: a herd that was cut off at once spreads over it.
export const backoff = (failures) => Math.random() * Math.min(LONGEST, FIRST * 2 ** failures);

// Codes after which it makes no sense to come back: the server meant it.
export const isFinal = (code) =>
  code === 1000 || code === 1008 || (code >= 4400 && code < 4500 && code !== 4408 && code !== 4429);

export const connect = (url, options) => new Connection(url, options);

export class Connection extends EventTarget {
  #url; #options; #groups = new Map();
  #state = "closed"; #overSSE; #link = null; #failures = 0; #timer = 0;
  #wake = () => document.hidden || this.#check();

  constructor(url, options = {}) {
    super();
    this.#url = new URL(url, location.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#options = options;
    this.#overSSE = !globalThis.WebSocket && !!options.events;
    this.reconnect();
  }

  get state() {
    return this.#state;
  }

  get groups() {
    return [...this.#groups.keys()];
  }

  join(group, { last = 0, since } = {}) {
    if (this.#groups.has(group)) return;
    this.#groups.set(group, { last, since: since ?? this.#options.storage?.getItem(this.#key(group)) ?? null });
    if (!this.#overSSE) this.#sendJoin(group);
    else if (this.#state !== "closed") this.#open();
  }

  leave(group) {
    if (!this.#groups.delete(group)) return;
    if (!this.#overSSE) this.#send({ type: "leave", group });
    else if (this.#state !== "closed") this.#open();
  }

  // True if the message was handed to an open WebSocket; that it has arrived, only the application can say.
  send(message, group = null) {
    return this.#send({ type: "message", message, group });
  }

  // Connect at once: before the delay is over, after the end, or with another token.
  reconnect() {
    addEventListener("online", this.#wake);
    document.addEventListener("visibilitychange", this.#wake);
    this.#open();
  }

  close(code = 1000, reason = "") {
    removeEventListener("online", this.#wake);
    document.removeEventListener("visibilitychange", this.#wake);
    this.#drop();
    this.#tell("closed", { code, reason });
  }

  #key(group) {
    return `anyio_channels:${this.#url.pathname}:${group}`;
  }

  #send(frame) {
    const open = this.#state === "open" && !this.#overSSE;
    if (open) this.#link.send(JSON.stringify(frame));
    return open;
  }

  #sendJoin(group) {
    this.#send({ type: "join", group, ...this.#groups.get(group) });
  }

  #open() {
    this.#drop();
    this.#tell("connecting");
    if (this.#overSSE && !this.#groups.size) return; // there is no stream of nothing
    const link = this.#link = this.#overSSE ? new EventStream() : new WebSocket(this.#url);
    const current = (act) => (event) => link === this.#link && act(event);
    link.onmessage = current(({ data }) => this.#receive(data));
    link.onclose = current(({ code, reason }) => this.#lost(code, reason));
    // Many that come back at once wait longer with each failure, so that the server can finish what it has begun.
    const expectAnswer = () => this.#expect(PATIENCE * 2 ** Math.min(this.#failures, 3));
    expectAnswer();
    const { token, events } = this.#options;
    Promise.resolve(typeof token === "function" ? token() : token).then(
      current((token) => {
        if (this.#overSSE) return link.open(new URL(events, location.href), token, this.#groups);
        const greet = () => {
          expectAnswer();
          link.send(JSON.stringify({ type: "hello", version: VERSION, token }));
        };
        link.readyState ? greet() : (link.onopen = greet);
      }),
    ).catch(current(() => this.#lost()));
  }

  // Without a sign of the server within this time the link is dead, whatever the browser believes.
  #expect(time) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lost(), time);
  }

  #check() {
    if (this.#state === "lost") this.#open();
    else if (this.#send({ type: "ping" })) this.#expect(PATIENCE);
  }

  #receive(data) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#overSSE ? this.#lost() : this.#check(), IDLE + PATIENCE * this.#overSSE);
    if (!data) return; // a heartbeat
    const frame = JSON.parse(data), { type, group } = frame, known = this.#groups.get(group);
    if (type === "hello") {
      this.#failures = 0;
      this.#tell("open");
      this.groups.forEach((group) => this.#sendJoin(group));
    }
    if (known && frame.position) {
      known.since = frame.position;
      this.#options.storage?.setItem(this.#key(group), frame.position);
    }
    // The server has taken us out of the group, or never let us in.
    if (type === "left" ? frame.code : frame.frame === "join") this.#groups.delete(group);
    if (type !== "ping") this.#emit(type, frame);
    if (type === "joined" && !frame.complete) this.#emit("missed", { type: "missed", group });
  }

  #lost(code = 1006, reason = "") {
    if (isFinal(code)) return this.close(code, reason);
    this.#drop();
    if (code === 4429) this.#failures = 4;
    const delay = backoff(this.#failures++);
    // Where no WebSocket gets through, server-sent events may.
    if (this.#failures % 2 === 0 && this.#options.events && globalThis.WebSocket) this.#overSSE = !this.#overSSE;
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#tell("lost", { code, reason, delay });
  }

  #drop() {
    clearTimeout(this.#timer);
    const link = this.#link;
    this.#link = null;
    link?.close();
  }

  #tell(state, more) {
    this.#state = state;
    this.#emit("state", { state, transport: this.#overSSE ? "sse" : "websocket", ...more });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

// EventSource with a token, a signal of heartbeats, and the code of a refusal.
class EventStream {
  #abort = new AbortController();

  close() {
    this.#abort.abort();
  }

  async open(url, token, groups) {
    const headers = { Accept: "text/event-stream" }, positions = [];
    for (const [group, { since, last }] of groups) {
      url.searchParams.append("group", group);
      if (since) positions.push(groups.size > 1 ? `${group}=${since}` : since);
      else if (last) url.searchParams.set("last", last);
    }
    if (positions.length) headers["Last-Event-ID"] = positions.join();
    if (token) headers.Authorization = `Bearer ${token}`;
    let code, reason;
    try {
      const response = await fetch(url, { headers, signal: this.#abort.signal, cache: "no-store" });
      if (response.status !== 200) code = response.status === 204 ? 1000 : 4000 + response.status;
      else await this.#read(response.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch (error) {
      reason = String(error);
    }
    this.onclose({ code, reason });
  }

  async #read(reader) {
    for (let text = "", chunk; !(chunk = await reader.read()).done; ) {
      const events = (text + chunk.value).split("\n\n");
      text = events.pop();
      for (const event of events) this.onmessage({ data: /^data: (.*)$/m.exec(event)?.[1] });
    }
  }
}
