-- Before each play: the same rows, the same sequences. Object ids stay, for they are part of RowDescription.
set lock_timeout = '10s';
truncate play.items, play.notes restart identity;
alter sequence play.counter restart;
insert into play.items (id, name) values (1, 'one'), (2, 'two'), (3, 'three'), (4, null), (5, 'fünf');
