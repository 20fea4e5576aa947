/** A frame of the server; docs/reference/protocol.rst describes them. */
export interface MessageFrame<Message> {
  type: "message";
  /** null for what is for this client alone, and where the server does not know it: in several groups without a history. */
  group: string | null;
  position: string | null;
  message: Message;
}

export interface JoinedFrame<Meta = Record<string, unknown>> {
  type: "joined";
  group: string;
  position: string | null;
  /** Whether everything after the position that the browser named comes now. */
  complete: boolean;
  /** Whether the server keeps a history. */
  history: boolean;
  /** As which member, where there is presence. */
  member?: string;
  /** The metadata of each channel of each member, where there is presence; null if there are too many. */
  members?: Record<string, Meta[]> | null;
}

export interface PresenceFrame<Meta = Record<string, unknown>> {
  type: "presence";
  group: string;
  event: "joined" | "updated" | "left";
  member: string;
  metas?: Meta[];
}

export interface MissedFrame {
  type: "missed";
  /** null if it may concern all groups. */
  group: string | null;
}

export interface LeftFrame {
  type: "left";
  group: string;
  /** Why, if the browser did not ask for it. */
  code?: string;
}

export interface ErrorFrame {
  type: "error";
  /** The type of the frame that was refused; null if the connection is closed. */
  frame: "join" | "message" | null;
  code: string;
  reason: string;
  group: string | null;
  /** Which message, if the application says so. */
  id?: string;
}

export interface State {
  state: "connecting" | "open" | "lost" | "closed";
  transport: "websocket" | "sse";
  code?: number;
  reason?: string;
  /** Milliseconds until the next attempt, when it is lost. */
  delay?: number;
}

export interface EventMap<Message, Meta> {
  hello: CustomEvent<{ type: "hello"; version: number }>;
  joined: CustomEvent<JoinedFrame<Meta>>;
  message: CustomEvent<MessageFrame<Message>>;
  presence: CustomEvent<PresenceFrame<Meta>>;
  missed: CustomEvent<MissedFrame>;
  left: CustomEvent<LeftFrame>;
  error: CustomEvent<ErrorFrame>;
  state: CustomEvent<State>;
}

export interface Options {
  /** What the server's `authenticate` gets, or a function that is called before each attempt. */
  token?: string | (() => string | Promise<string>);
  /** The URL of a view that returns EventStreamResponse(frames=True), for networks that let no WebSocket through. */
  events?: string;
  /** Where positions are kept besides memory, such as sessionStorage. */
  storage?: Pick<Storage, "getItem" | "setItem">;
}

export interface JoinOptions {
  /** How many messages of the past come, if there is no position. */
  last?: number;
  /** A position to begin at, such as one that came with the page. */
  since?: string;
}

export declare class Connection<Message = unknown, Meta = Record<string, unknown>, Sent = unknown> extends EventTarget {
  constructor(url: string | URL, options?: Options);
  readonly state: State["state"];
  readonly groups: string[];
  /** Join a group, now and after each loss of the connection. */
  join(group: string, options?: JoinOptions): void;
  leave(group: string): void;
  /** Returns whether the message was handed to an open WebSocket; whether it arrived, only the application can say. */
  send(message: Sent, group?: string | null): boolean;
  /** Connect at once: before the delay is over, after it was closed, or with another token. */
  reconnect(): void;
  /** Close it until `reconnect`. */
  close(code?: number, reason?: string): void;
  addEventListener<Type extends keyof EventMap<Message, Meta>>(
    type: Type,
    listener: (event: EventMap<Message, Meta>[Type]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof EventMap<Message, Meta>>(
    type: Type,
    listener: (event: EventMap<Message, Meta>[Type]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

export declare function connect<Message = unknown, Meta = Record<string, unknown>, Sent = unknown>(
  url: string | URL,
  options?: Options,
): Connection<Message, Meta, Sent>;

/** Milliseconds until the attempt after so many failures. */
export declare function backoff(failures: number): number;

/** Whether a connection that was closed with this code stays closed. */
export declare function isFinal(code: number): boolean;
